"""A rolling deploy: the old worker hands back what it does not know, and the new one runs it, each task once."""

from __future__ import annotations

from collections import Counter
from contextlib import closing

from framework._boot import loader
from framework.api.transport import Queue
from support import ledger, queues
from support.wait import wait_for


def parked(app):
    with closing(loader.make_transport(app.conf.settings)) as transport:
        return transport.parked([Queue(name="celery")])["celery"]


def test_each_task_runs_once_and_none_is_given_up(broker_url, client, start_worker, ledger_path):
    """The old worker meets them all before there is a new one, and goes on with what it has."""
    conf = {"task_unknown_delay": 0.5, "task_unknown_retries": 200}
    options = {"broker": broker_url, "ledger": ledger_path, "conf": conf}
    old = start_worker("-P", "threads", "-c", "2", "-n", "old@here", app="support.rollout:old", **options)
    app = client(broker_url)
    fresh, common = [f"fresh{number}" for number in range(300)], [f"common{number}" for number in range(50)]
    for entry in fresh:
        app.send_task("rollout.fresh", (entry,))
    wait_for(lambda: len(old.lines("Received unregistered task")) == 300, 60, lambda: old.output[-3000:])
    for entry in common:
        app.send_task("rollout.common", (entry,))
    wait_for(lambda: ledger.read(ledger_path) == Counter(common), 40, lambda: old.output[-3000:])
    new = start_worker("-P", "threads", "-c", "2", "-n", "new@here", app="support.rollout:new", **options)
    wait_for(lambda: ledger.size(ledger_path) >= 350, 60, lambda: f"{ledger.size(ledger_path)}: {old.output[-3000:]}")
    assert (old.stop(), new.stop()) == (0, 0)
    assert ledger.read(ledger_path) == Counter([*fresh, *common])
    assert [queues.waiting(broker_url), parked(app), queues.waiting(broker_url, "celery.dlq")] == [0, 0, 0]
