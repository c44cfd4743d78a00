"""RabbitMQ dies, restarts, blocks, loses patience: tasks run once, what was sent is there, the worker stays."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from framework._boot import loader
from framework.api.transport import Queue
from support import ledger, queues
from support.brokers import PrivateRabbit
from support.held import LONG, Held
from support.proxy import Proxy
from support.wait import wait_for

QUORUM = {"task_default_queue_type": "quorum"}


@pytest.fixture
def node(module_rabbit: PrivateRabbit) -> PrivateRabbit:
    """Each test has a virtual host of its own, and leaves the node running."""
    return module_rabbit


@pytest.mark.parametrize("conf", [{}, QUORUM], ids=["classic", "quorum"])
def test_what_runs_while_the_node_is_dead_runs_once(
    node: PrivateRabbit, conf: dict[str, Any], start_worker: Any, client: Any, tmp_path: Path
) -> None:
    """Half of it ends meanwhile; what waited, and what is parked, is still there."""
    url = node.fresh_url()
    conf = {**conf, "worker_eta_park_after": 1}
    held = Held(url, "threads", start_worker, client, tmp_path, conf)
    later = [f"later{number}" for number in range(20)]
    held.app.send_many(held.app.tasks["proj.record_late"].si(entry).set(countdown=4) for entry in later)
    # Every slot is busy, so nobody has looked at these; what another worker parks is parked.
    other = start_worker("-P", "solo", "-n", "other@here", "-Q", "other", broker=url, ledger=held.book, conf=conf)
    aside = [f"aside{number}" for number in range(20)]
    held.app.send_many(held.app.tasks["proj.record_late"].si(entry).set(queue="other", countdown=6) for entry in aside)
    with closing(loader.make_transport(held.app.conf.settings)) as transport:
        parked = lambda: transport.parked([Queue(name="other")]) == {"other": 20}  # noqa: E731
        wait_for(parked, LONG, "all to be parked")
    node.kill()
    held.worker.wait_line("Connection to broker lost", timeout=LONG)
    for gate in held._gates[:2]:
        gate.touch()
    held.wait_for([f"end:{entry}" for entry in held.held[:2]])
    node.start()
    held.is_back()
    held.let_go()
    held.app.close()
    again = client(url, **conf)
    again.tasks["proj.record_late"].delay("new")
    wait_for(
        lambda: not ledger.balance([*aside, *later], held.book).lost,
        LONG,
        lambda: f"{ledger.balance([*aside, *later], held.book)}; the other worker said: {other.output[-3000:]}",
    )
    held.balances("new", *later, *aside)
    assert other.stop() == 0, other.output
    assert "Traceback" not in other.output


def set_patience(node: PrivateRabbit, *, timeout: int, look: int) -> None:
    """How long a message may be on loan on channels opened from now on, and how often that is looked at, in ms."""
    settings = {"consumer_timeout": timeout, "channel_tick_interval": look}
    node.evaluate(", ".join(f"application:set_env(rabbit, {name}, {value})" for name, value in settings.items()) + ".")


def test_the_broker_loses_patience(node: PrivateRabbit, start_worker: Any, client: Any, tmp_path: Path) -> None:
    """`consumer_timeout` takes the messages of long tasks away, and the channel: they run on, and run once.

    Workers hear of it while every slot is busy, and know them when they come again.
    """
    set_patience(node, timeout=2_000, look=500)
    busy = []
    try:
        for pool, slots in (("threads", 4), ("prefork", 1), ("solo", 1)):
            place = tmp_path / pool
            place.mkdir()
            busy.append(Held(node.fresh_url(), pool, start_worker, client, place, name=pool, slots=slots))
        for held in busy:
            held.worker.wait_line("a task ran longer than RabbitMQ's consumer_timeout", timeout=LONG)
    finally:
        set_patience(node, timeout=1_800_000, look=60_000)
    for held in busy:
        held.is_back()
        held.worker.wait_line("was redelivered while it runs here: not run again", timeout=LONG, count=held.late)
        held.let_go()
        held.app.tasks["proj.record_late"].delay("new")
    for held in busy:
        held.balances("new")


def test_a_blocked_broker_is_worked_for(node: PrivateRabbit, start_worker: Any, client: Any, ledger_path: Path) -> None:
    """It takes no new tasks; those that it has are handed out, run and acknowledged. Then all is as before."""
    url = node.fresh_url()
    app = client(url, broker_transport_options={"blocked_timeout": 0.2}, task_publish_retry=False)
    before = list(range(200))
    app.send_many(app.tasks["proj.record_late"].si(number) for number in before)
    node.evaluate("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).")
    try:
        worker = start_worker("-P", "threads", "-c", "2", broker=url, ledger=ledger_path)
        wait_for(lambda: ledger.size(ledger_path) == len(before), LONG, lambda: worker.output[-2000:])
        with closing(node.connect(url.rpartition("/")[2])) as connection:
            channel = connection.channel()
            left = lambda: channel.queue_declare("celery", passive=True).message_count  # noqa: E731
            wait_for(lambda: left() == 0, LONG, "an empty queue")
        assert worker.running
    finally:
        node.evaluate("rabbit_alarm:clear_alarm({resource_limit, memory, node()}).")
    app.tasks["proj.record_late"].delay("new")
    wait_for(lambda: app.control.ping(timeout=1), LONG, "an answer to ping")
    wait_for(lambda: ledger.balance([*before, "new"], ledger_path).balanced, LONG, "the new one to run")
    assert worker.stop() == 0, worker.output
    # Acknowledged while the broker was blocked: nothing came back with the connection's end.
    assert queues.waiting(url) == 0
    assert worker.lines("Traceback") == worker.lines("Connection to broker lost") == []


def test_a_worker_goes_over_to_the_next_address(
    node: PrivateRabbit, start_worker: Any, client: Any, tmp_path: Path
) -> None:
    url = node.fresh_url()
    with Proxy(node.port) as one, Proxy(node.port) as two:
        both = f"{one.through(url)};{two.through(url)}"
        held = Held(both, "threads", start_worker, client, tmp_path)
        assert two.open == 0
        one.refuse()
        one.cut()
        held.is_back()
        assert two.open > 0
        held.let_go()
        held.app.tasks["proj.record_late"].delay("new")
        held.balances("new", url=url)
