"""`async def` tasks on real workers: on the asyncio pool, and on every other."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from framework.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from support import ledger
from support.wait import wait_for

POOLS = ["asyncio", "prefork", "threads", "solo", "gevent", "eventlet"]


@pytest.fixture(params=["redis", "sqlite"])
def url(request):
    return str(request.getfixturevalue(f"{request.param}_url"))


def test_a_thousand_sleeps_side_by_side(url, start_worker, client, ledger_path):
    app = client(url, url)
    start_worker(
        "-P", "asyncio", "-c", "200", "-l", "warning", broker=url, backend=url, ledger=ledger_path, ready=False
    )
    asleep = app.tasks["proj.asleep"]
    began = time.monotonic()
    results = app.send_many(asleep.s(0.1, number) for number in range(1000))
    wait_for(lambda: ledger.size(ledger_path) >= 1000, 30, lambda: str(ledger.size(ledger_path)))
    # One after another they would take a hundred seconds.
    assert time.monotonic() - began < 30
    books = ledger.balance(range(1000), ledger_path)
    assert books.balanced, books
    # Every task had a context of its own.
    assert all(result.get(timeout=30) for result in results)


def test_each_of_20000_runs_exactly_once(redis_url, start_worker, client, ledger_path):
    app = client(redis_url)
    app.send_many(app.tasks["proj.arecord"].si(number) for number in range(20_000))
    worker = start_worker("-P", "asyncio", "-l", "warning", broker=redis_url, ledger=ledger_path, ready=False)
    wait_for(lambda: ledger.size(ledger_path) >= 20_000, 60, lambda: worker.output[-2000:])
    assert worker.stop() == 0, worker.output
    books = ledger.balance(range(20_000), ledger_path)
    assert books.balanced, books


def test_a_sync_task_does_not_block_the_loop(url, start_worker, client, ledger_path):
    app = client(url, url)
    start_worker("-P", "asyncio", broker=url, backend=url, ledger=ledger_path)
    app.tasks["proj.sleeptask"].delay(2, "slow")
    wait_for(lambda: ledger.lines(ledger_path) == ["start:slow"], 30, "the sync task")
    assert app.tasks["proj.asleep"].delay(0.01, "quick").get(timeout=30)
    assert "end:slow" not in ledger.lines(ledger_path)


@pytest.mark.parametrize("pool", POOLS)
def test_soft_and_hard_limits(pool, redis_url, start_worker, client, ledger_path):
    app = client(redis_url, redis_url)
    start_worker("-P", pool, broker=redis_url, backend=redis_url, ledger=ledger_path)
    soft = app.tasks["proj.asoft"].apply_async((60,), soft_time_limit=0.2)
    assert soft.get(timeout=20) == ["cleaned up", True]
    sleep = app.tasks["proj.asleep"]
    with pytest.raises(SoftTimeLimitExceeded):
        sleep.apply_async((60,), soft_time_limit=0.2).get(timeout=20)
    with pytest.raises(TimeLimitExceeded):
        sleep.apply_async((60,), time_limit=0.2).get(timeout=20)
    assert sleep.delay(0).get(timeout=20)


@pytest.mark.parametrize("pool", POOLS)
def test_every_end(pool, redis_url, start_worker, client, ledger_path):
    app = client(redis_url, redis_url)
    worker = start_worker("-P", pool, broker=redis_url, backend=redis_url, ledger=ledger_path)
    end = app.tasks["proj.aend"]
    end.apply_async(("ignore",), task_id="to-ignore")
    end.apply_async(("reject",), task_id="to-reject")
    assert end.delay("").get(timeout=20) == 0
    assert end.delay("retry").get(timeout=20) == 2
    assert app.tasks["proj.aauto"].delay().get(timeout=20) == 1
    with pytest.raises(ValueError, match="as asked"):
        end.delay("fail").get(timeout=20)
    with pytest.raises(RuntimeError, match="cancelled from within"):
        end.delay("cancel").get(timeout=20)
    assert "SystemExit" in repr(end.delay("exit").get(timeout=20, propagate=False))
    worker.wait_line(r"aend\[to-ignore\] ignored")
    worker.wait_line(r"aend\[to-reject\] .*unwanted")
    assert end.delay("").get(timeout=20) == 0
    assert worker.stop() == 0, worker.output


def test_client_calls_do_not_block_the_event_loop(redis_url, start_worker, client, ledger_path):
    app = client(redis_url, redis_url)
    start_worker("-P", "asyncio", broker=redis_url, backend=redis_url, ledger=ledger_path)

    async def main():
        turned = asyncio.Event()
        result = await app.tasks["proj.asleep"].adelay(0.2, "x")
        asyncio.get_running_loop().call_soon(turned.set)
        waiting = asyncio.ensure_future(result.aget(timeout=20))
        await turned.wait()
        assert not waiting.done()
        other = await app.tasks["proj.add"].aapply_async((1, 2))
        return await waiting, await other.aget(timeout=20)

    assert asyncio.run(main()) == (True, 3)


def test_called_directly_and_eagerly(client):
    app = client("memory://")
    assert app.tasks["proj.aauto"].apply().get() == 1
    assert app.tasks["proj.asleep"].apply((0,)).get() is True
    assert asyncio.run(app.tasks["proj.asleep"](0)) is True

    async def inside():
        return app.tasks["proj.asleep"].apply((0,)).get()

    assert asyncio.run(inside()) is True
    assert "eager-coroutine" not in {thread.name for thread in threading.enumerate()}
