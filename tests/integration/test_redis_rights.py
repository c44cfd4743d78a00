"""Redis accounts with few rights: what works without them, and what is said where it does not."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from framework import chord
from framework.exceptions import TransportError
from support import ledger, workers
from support.brokers import PrivateRedis
from support.held import LONG
from support.wait import wait_for

#: What an account with ``~shop:* &shop:*`` lacks for events: Redis wants each pattern in the ACL as it is.
EVENTS = ("&shop:/{db}.celeryev/*", "&shop:/{db}.celeryev/worker.*")
ALL_BUT_DANGEROUS = ("~shop:*", "&shop:*", "+@all", "-@dangerous")
PREFIX = {
    "broker_transport_options": {"global_keyprefix": "shop:"},
    "result_backend_transport_options": {"global_keyprefix": "shop:"},
}


@pytest.fixture
def account(redis_server: PrivateRedis, redis_url: str) -> Any:
    """Make an account with these rules; return its URL."""
    db = redis_url.rpartition("/")[2]
    with redis_server.client() as server:

        def make(*rules: str) -> str:
            words = [rule.format(db=db) for rule in rules]
            server.execute_command("ACL", "SETUSER", "shop", "reset", "on", ">lemon-tree-7", *words)
            return redis_url.replace("://", "://shop:lemon-tree-7@")

        yield make
        server.execute_command("ACL", "DELUSER", "shop")


@pytest.fixture
def start(start_worker: Any, ledger_path: Any) -> Any:
    def begin(url: str, *args: str, **options: Any) -> Any:
        return start_worker(
            *("-P", "threads", "-c", "2", "-n", "one@here", "-E", *args),
            broker=url,
            backend=url,
            ledger=ledger_path,
            conf=PREFIX,
            **options,
        )

    return begin


def everything_works(app: Any, path: Any) -> None:
    """Tasks, batches, results, a chord, a task for later and remote control."""
    ids, many = [f"one{number}" for number in range(5)], [f"many{number}" for number in range(20)]
    record, add = app.tasks["proj.record"], app.tasks["proj.add"]
    for each in ids:
        record.delay(each)
    app.send_many(record.si(each) for each in many)
    record.apply_async(("later",), countdown=1)
    expected = Counter([*ids, *many, "later"])
    wait_for(lambda: ledger.read(path) == expected, LONG, lambda: str(ledger.read(path)))
    total = chord([add.s(number, number) for number in range(5)], app.tasks["proj.xsum"].s())
    assert total.apply_async().get(timeout=LONG) == 20
    assert app.control.ping(timeout=LONG, limit=1) == [{"one@here": {"ok": "pong"}}]
    [reply] = app.control.revoke("never", reply=True, timeout=LONG, limit=1)
    assert "flagged as revoked" in reply["one@here"]["ok"]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (ALL_BUT_DANGEROUS, "sent to celeryev: .*ACL SETUSER shop &shop:/[0-9]+.celeryev/worker"),
        ((*ALL_BUT_DANGEROUS, *EVENTS), None),
        ((*ALL_BUT_DANGEROUS, *EVENTS, "-client"), r"ACL SETUSER shop \+client\|tracking \+client\|caching"),
        ((*ALL_BUT_DANGEROUS, *EVENTS, "-config", "-info", "-hello"), None),
    ],
    ids=["no patterns", "no dangerous ones", "no client", "no config"],
)
def test_what_works_without_rights(account, start, client, ledger_path, rules, said):
    url = account(*rules)
    worker = start(url)
    everything_works(client(url, url, **PREFIX), ledger_path)
    assert worker.stop() == 0
    told = worker.lines("ACL SETUSER")
    assert len(told) == (said is not None), told
    assert said is None or worker.lines(said)
    assert "until the broker" not in worker.output


@pytest.mark.parametrize(
    ("lacks", "allow"),
    [
        ("-select", r"\+select"),
        ("-ping", r"\+ping"),
        ("-script", r"\+script\|load"),
        ("-eval -evalsha", r"\+eval"),
        ("-hset", None),
    ],
)
def test_a_worker_that_cannot_work_says_what_it_needs(account, start, lacks, allow):
    url = account(*ALL_BUT_DANGEROUS, *EVENTS, *lacks.split())
    worker = start(url, ready=False)
    if allow is None:
        # Seen only when a message is leased.
        worker.wait_line("ready", timeout=LONG)
        return
    assert worker.wait(timeout=LONG) == 78
    assert worker.lines(f"framework: error: .*to allow it: ACL SETUSER shop {allow}"), worker.output


def test_a_key_that_is_not_allowed_is_named(account, client):
    url = account("~celery-task-meta-*", "&*", "+@all")
    with pytest.raises(TransportError, match=r"to allow it: ACL SETUSER shop ~_kombu\.binding\.celery$"):
        client(url, url).tasks["proj.add"].delay(1, 2)
    url = account("~celery-task-meta-*", "~_kombu*", "&*", "+@all")
    app = client(url, url)
    with pytest.raises(TransportError, match=r"ACL SETUSER shop ~celery$"):
        app.tasks["proj.add"].delay(1, 2)
    with pytest.raises(TransportError, match=r"ACL SETUSER shop ~celery$"):
        app.send_many(app.tasks["proj.add"].si(1, 2) for _ in range(10))


def test_batches_of_several_queues_need_transactions_and_say_so(account, client):
    url = account("~*", "&*", "+@all", "-multi")
    app = client(url, url)
    with pytest.raises(TransportError, match=r"ACL SETUSER shop \+multi$"):
        app.send_many(app.tasks["proj.add"].si(1, 2).set(queue=name) for name in ("a", "b"))


def test_events_that_are_not_allowed_end_the_capture(account, start):
    """They do not try again and again what the server refuses."""
    url = account(*ALL_BUT_DANGEROUS)
    start(url)
    env = workers.app_environment(broker=url, conf='{"broker_transport_options": {"global_keyprefix": "shop:"}}')
    done = workers.run_command("-A", "proj", "events", "--dump", env=env)
    assert done.returncode != 0
    assert "ACL SETUSER shop &shop:/" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_it_hears_what_is_allowed_while_it_runs(account, start, client, redis_server):
    """A right that is given later counts from the next connection."""
    url = account(*ALL_BUT_DANGEROUS, "-subscribe")
    worker = start(url)
    worker.wait_line(r"refuses to pass on what is sent to celery.pidbox: .*ACL SETUSER shop \+subscribe", timeout=LONG)
    account(*ALL_BUT_DANGEROUS, *EVENTS)
    with redis_server.client() as server:
        server.execute_command("CLIENT", "KILL", "USER", "shop", "SKIPME", "yes")
    app = client(url, url, **PREFIX)
    wait_for(lambda: app.control.ping(timeout=1, limit=1), LONG, lambda: worker.output[-2000:])
