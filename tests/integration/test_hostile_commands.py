"""Commands that somebody made to stall a worker: it answers the next one, and runs tasks."""

from __future__ import annotations

import textwrap

import pytest

from support import ledger
from support.wait import wait_for

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet", "asyncio"]
PLACES = [*(("redis", pool) for pool in POOLS), ("amqp", "threads"), ("sqlite", "threads")]
NODE = "w@here"
#: Far beyond what an answer takes.
LONG = 60.0


@pytest.fixture
def url(request, broker):
    return request.getfixturevalue(f"{broker}_url")


def ask(app, command, **arguments):
    (reply,) = app.control.broadcast(command, arguments, reply=True, timeout=LONG, limit=1)
    return reply[NODE]


@pytest.mark.parametrize(("broker", "pool"), PLACES)
def test_a_command_that_never_ends_is_answered_with_an_error(
    broker, pool, url, start_worker, client, ledger_path, tmp_path
):
    (tmp_path / "endless.py").write_text(
        textwrap.dedent(
            """
            import time
            from framework.worker.control import inspect_command
            from support.proj import app

            @inspect_command()
            def endless(state):
                while True:
                    try:
                        time.sleep(0.001)
                    except Exception:
                        pass

            @inspect_command(time_limit=0.1)
            def brief(state):
                while True:
                    pass
            """
        )
    )
    worker = start_worker(
        *("-P", pool, "-c", "2", "-n", NODE),
        app="endless", app_dir=tmp_path, broker=url, ledger=ledger_path, conf={"control_time_limit": 1.0},
    )  # fmt: skip
    app = client(url)
    app.tasks["proj.record"].delay("one")
    assert ask(app, "endless") == {"error": "endless was ended after the 1 s that a command may run at most"}
    assert ask(app, "brief") == {"error": "brief was ended after the 0.1 s that a command may run at most"}
    assert ask(app, "ping") == {"ok": "pong"}
    app.tasks["proj.record"].delay("two")
    wait_for(lambda: ledger.read(ledger_path).keys() == {"one", "two"}, LONG, lambda: worker.output[-3000:])
    assert "Control request endless failed: endless was ended after the 1 s" in worker.output
    assert not worker.lines("CommandTimeout")


@pytest.mark.parametrize("broker", ["redis", "amqp", "sqlite"])
def test_patterns_of_others_do_not_stall_a_worker(broker, url, start_worker, client):
    node = f"{'a' * 60}@here"
    worker = start_worker("-P", "solo", "-n", node, broker=url)
    control = client(url).control
    for pattern, matcher in [
        ("(?x)(a+) +!", "pcre"),
        ("a*a*a*a*a*!", "pcre"),
        ("*a?[b]" * 70_000, "glob"),
        ("*a*" * 100 + "!", "glob"),
        ("[" * 100, "pcre"),
    ]:
        control.broadcast("shutdown", pattern=pattern, matcher=matcher)
    assert control.broadcast("ping", reply=True, timeout=LONG, limit=1, pattern="a+@here$", matcher="pcre") == [
        {node: {"ok": "pong"}}
    ]
    assert worker.running
    assert len(worker.lines("cannot be matched and is ignored: the pattern")) == 4


@pytest.mark.parametrize("broker", ["redis", "amqp", "sqlite"])
def test_names_of_queues_are_as_long_as_every_broker_takes(broker, url, start_worker, client):
    start_worker("-P", "solo", "-n", NODE, broker=url)
    app = client(url)
    long = "x" * 256
    for arguments in (
        {"queue": long},
        {"queue": "q", "exchange": long},
        {"queue": "q", "exchange": "e", "exchange_type": "topic", "routing_key": "#." * 200_000},
    ):
        assert "characters; at most 255 are possible" in ask(app, "add_consumer", **arguments)["error"]
    assert ask(app, "ping") == {"ok": "pong"}
