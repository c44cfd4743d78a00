"""A broker that answers and refuses to write: what follows a task is sent when it accepts again, once."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from framework import chord
from framework.api.transport import Queue
from framework.exceptions import TransportError
from support import ledger
from support.brokers import PrivateRabbit, PrivateRedis
from support.wait import wait_for

LONG = 60


@contextmanager
def full_memory(server: PrivateRedis, url: str) -> Iterator[None]:
    """Redis answers OOM to every command that may need memory."""
    del url
    with server.client() as admin:
        admin.config_set("maxmemory", "1")
        yield
        admin.config_set("maxmemory", "0")


@contextmanager
def too_few_replicas(server: PrivateRedis, url: str) -> Iterator[None]:
    """Redis answers NOREPLICAS to every write."""
    del url
    with server.client() as admin:
        admin.config_set("min-replicas-to-write", "1")
        yield
        admin.config_set("min-replicas-to-write", "0")


@contextmanager
def full_queues(server: PrivateRabbit, url: str) -> Iterator[None]:
    """RabbitMQ refuses every message for a queue."""
    vhost = urlsplit(url).path[1:]
    limit = '{"max-length": 0, "overflow": "reject-publish"}'
    server.ctl("set_policy", "-p", vhost, "--apply-to", "queues", "full", ".*", limit)
    yield
    server.ctl("clear_policy", "-p", vhost, "full")


SERVERS: dict[str, Any] = {"OOM": full_memory, "NOREPLICAS": too_few_replicas, "full": full_queues}


@pytest.fixture
def broker(request: pytest.FixtureRequest, private_server: Any) -> tuple[Any, str, Any]:
    """Return ``(server, url, refusing)``."""
    refusing = SERVERS[request.param]
    if refusing is full_queues:
        server = request.getfixturevalue("rabbit_server")
        return server, server.fresh_url(), refusing
    server = private_server(PrivateRedis)
    return server, server.url, refusing


#: The server, the pool, and "a" for tasks that are coroutines.
CASES = [("OOM", "prefork", ""), ("OOM", "threads", ""), ("OOM", "gevent", ""), ("OOM", "eventlet", "")]
CASES += [("OOM", "asyncio", "a"), ("OOM", "prefork", "a"), ("NOREPLICAS", "threads", "")]
CASES += [("full", "prefork", ""), ("full", "threads", "a"), ("full", "asyncio", "a")]
#: What a worker logs for each message that waits.
WAITS = "did not accept a message for .* and until it does|waits until it is accepted"


@pytest.mark.parametrize(("broker", "pool", "kind"), CASES, indirect=["broker"])
def test_what_follows_a_task_waits_for_the_broker_to_accept(
    pool: str, kind: str, broker: Any, redis_url: str, client: Any, start_worker: Any, ledger_path: Path
) -> None:
    server, url, refusing = broker
    app = client(url, redis_url)
    worker = start_worker("-P", pool, "-c", "6", broker=url, backend=redis_url, ledger=ledger_path)
    gate = ledger_path.with_name("gate")
    hold, body, record = (app.tasks[f"proj.{name}"] for name in (f"{kind}hold", "body", "record"))
    results = [
        (hold.s(str(gate)) | body.s("next")).apply_async(),
        hold.apply_async((str(gate),), link=body.s("link")),
        chord([hold.s(str(gate))], body.s("chord")).apply_async(),
        app.tasks[f"proj.{kind}hold_and_retry"].delay(str(gate), "early"),
        app.tasks[f"proj.{kind}hold_and_retry_late"].delay(str(gate), "late"),
    ]
    failed = app.tasks[f"proj.{kind}hold_and_fail"].apply_async((str(gate),), link_error=record.s())
    wait_for(lambda: len(_active(app)) == 6, LONG, lambda: worker.output[-2000:])
    with refusing(server, url):
        gate.touch()
        # One line for each of five messages, and the chord's.
        worker.wait_line(WAITS, LONG, count=5)
        worker.wait_line("waits until its result can be counted", LONG)
        assert not ledger.read(ledger_path)
    expected = Counter({"body:next": 1, "body:link": 1, "body:chord": 1, "again:early": 1, "again:late": 1})
    expected[failed.id] = 1
    wait_for(lambda: ledger.read(ledger_path).total() >= 6, LONG, lambda: worker.output[-3000:])
    for result in results:
        result.get(timeout=LONG)
    assert isinstance(failed.get(timeout=LONG, propagate=False), ValueError)
    assert ledger.read(ledger_path) == expected
    assert len(worker.lines(WAITS)) == 5
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("broker", "word"), [("OOM", "OOM"), ("NOREPLICAS", "NOREPLICAS"), ("full", "is full")], indirect=["broker"]
)
def test_a_program_tries_again_by_its_policy_and_nothing_is_sent_twice(
    word: str, broker: Any, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server, url, refusing = broker
    app = client(url, None)
    task = app.tasks["proj.record"]
    few = {"max_retries": 2, "interval_start": 0.0, "interval_step": 0.0}
    until = {"max_retries": None, "interval_start": 0.1, "interval_step": 0.0}
    celery = Queue(name="celery", routing_key="celery")
    app.sender.publisher.publish([], [celery])
    pool = ThreadPoolExecutor(2)
    with refusing(server, url):
        with pytest.raises(TransportError, match=word):
            task.apply_async(("no",), retry_policy=few)
        assert caplog.text.count("trying again") == 2
        with pytest.raises(TransportError, match=word):
            task.apply_async(("no",), retry=False)
        with pytest.raises(TransportError, match=word):
            app.send_many((task, [("no",)] * 600), retry_policy=few)
        assert caplog.text.count("trying again") == 4
        one = pool.submit(task.apply_async, ("one",), retry_policy=until)
        many = pool.submit(app.send_many, (task, [("many",)] * 600), retry_policy=until)
        wait_for(lambda: caplog.text.count("trying again") >= 8, LONG, lambda: caplog.text[-2000:])
        assert not one.done()
        assert not many.done()
    one.result(LONG)
    assert len(many.result(LONG)) == 600
    pool.shutdown()
    sizes = app.sender.publisher.transport.sizes
    wait_for(lambda: sizes([celery])["celery"] == 601, LONG, lambda: str(sizes([celery])))


def test_a_redis_that_fills_up_amid_a_batch_takes_nothing_of_it(private_server: Any, client: Any) -> None:
    server = private_server(PrivateRedis)
    app = client(server.url, None)
    task = app.tasks["proj.record"]
    task.delay("first")
    with server.client() as admin:
        for size, count in ((2_000, 4_000), (20, 2_000)):
            room = admin.info("memory")["used_memory"] + size * count // 4
            admin.config_set("maxmemory", str(room))
            with pytest.raises(TransportError, match="OOM"):
                app.send_many((task, [("x" * size,)] * count), retry_policy={"max_retries": 1})
            assert admin.llen("celery") == 1
            admin.config_set("maxmemory", "0")
            app.send_many((task, [("x",)] * 600))
            assert admin.llen("celery") == 601
            admin.ltrim("celery", 0, 0)


def _active(app: Any) -> list[Any]:
    found = app.control.inspect(timeout=LONG, limit=1).active() or {}
    return [job for jobs in found.values() for job in jobs if job["time_start"]]


@pytest.mark.parametrize("broker", ["OOM", "full"], indirect=True)
def test_what_follows_a_lost_task_waits_for_the_broker_to_accept(
    broker: Any, redis_url: str, client: Any, start_worker: Any, ledger_path: Path
) -> None:
    """An error callback, the body of a chord that fails, and a retry, which the worker's own process sends."""
    server, url, refusing = broker
    app = client(url, redis_url)
    again = {"retry_on_worker_lost": True, "default_retry_delay": 0}
    conf = {"task_annotations": {"proj.hold_early": again, "proj.hold_late": again}}
    worker = start_worker("-c", "4", broker=url, backend=redis_url, ledger=ledger_path, conf=conf)
    gate = str(ledger_path.with_name("gate"))
    record = app.tasks["proj.record"]
    failed = app.tasks["proj.hold"].apply_async((gate,), link_error=record.s())
    body = app.tasks["proj.body"].s("chord").on_error(record.si("chord failed"))
    chord([app.tasks["proj.hold"].s(gate)], body).apply_async()
    app.tasks["proj.hold_early"].delay(gate, "early")
    app.tasks["proj.hold_late"].delay(gate, "late")
    wait_for(lambda: len(_active(app)) == 4, LONG, lambda: worker.output[-2000:])
    pids = [job["worker_pid"] for job in _active(app)]
    with refusing(server, url):
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        worker.wait_line("Callbacks of tasks that did not end by themselves wait", LONG)
        worker.wait_line("Retries for celery wait", LONG)
        open(gate, "w").close()
    first, second = (Counter({f"{what}:early": 1, f"{what}:late": 1}) for what in ("start", "end"))
    expected = first + first + second + Counter({failed.id: 1, "chord failed": 1})
    wait_for(lambda: ledger.read(ledger_path).total() >= 8, LONG, lambda: worker.output[-3000:])
    assert worker.stop() == 0
    assert ledger.read(ledger_path) == expected
    # One line a minute for each, however many messages there are and however often they are tried.
    assert len(worker.lines("wait in this worker until the broker accepts")) == 2


@pytest.mark.parametrize("broker", ["OOM", "full"], indirect=True)
def test_results_sent_as_messages_wait_for_the_broker_to_accept(
    broker: Any, client: Any, start_worker: Any, ledger_path: Path
) -> None:
    server, url, refusing = broker
    app = client(url, "rpc://")
    worker = start_worker("-P", "threads", "-c", "2", broker=url, backend="rpc://", ledger=ledger_path)
    gate = ledger_path.with_name("gate")
    result = app.tasks["proj.hold"].delay(str(gate))
    wait_for(lambda: len(_active(app)) == 1, LONG, lambda: worker.output[-2000:])
    with refusing(server, url):
        gate.touch()
        worker.wait_line("Results cannot be stored and are kept until they can", LONG)
    assert isinstance(result.get(timeout=LONG), int)
    assert worker.stop() == 0
