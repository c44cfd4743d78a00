"""What is particular to the embedded broker: processes, crashes, forks, leases, and files in a bad state."""

from __future__ import annotations

import json
import os
import select
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from framework.api.transport import Consumer, Delivery, Exchange, Queue
from framework.exceptions import ConfigError, ConnectionLost, TransportError
from framework.message import Outgoing, read_head
from framework_drivers.sqlite.database import database_path
from framework_transports.sqlite import SqliteOptions, SqliteTransport
from framework_transports.sqlite.housekeeping import MAIL_TTL
from support.wait import wait_for

# A fork beside running threads is what some of these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

CELERY = Queue(name="celery")
PIDBOX = Exchange(name="celery.pidbox", type="fanout", durable=False)

PRELUDE = """
import os, select, sys, time
from framework.api.transport import Exchange, Queue
from framework.message import Outgoing, read_head
from framework_transports.sqlite import SqliteOptions, SqliteTransport
transport = SqliteTransport(sys.argv[1], SqliteOptions(), {})
CELERY = Queue(name="celery")
def message(name):
    return Outgoing(body=b"[]", headers={"task": "t", "id": name}, routing_key="celery")
def say(text):
    print(text, flush=True)
"""


class Script:
    """A process of its own, running `code` on the broker; speaks in lines."""

    def __init__(self, code: str, url: str, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code, url, *args], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def rest(self) -> list[str]:
        assert self.process.stdout is not None
        lines = self.process.stdout.read().split()
        assert self.process.wait(30) == 0
        return lines

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        self.process.stdout.close()
        self.process.stdin.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as exits:
        yield exits


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/broker.db"


def make(url: str, **options: Any) -> SqliteTransport:
    return SqliteTransport(url, SqliteOptions(**options), {})


def message(name: object) -> Outgoing:
    return Outgoing(body=b"[]", headers={"task": "t", "id": str(name)}, routing_key="celery")


def publish(url: str, *names: object) -> None:
    with closing(make(url).producer()) as producer:
        producer.publish([message(name) for name in names])


def consumer_of(stack: ExitStack, url: str, **options: Any) -> Consumer:
    consumer = make(url, **options).consumer()
    stack.callback(consumer.close, requeue=True)
    consumer.add_queue(CELERY)
    return consumer


def ids(deliveries: Any) -> list[str | None]:
    return [read_head(delivery.payload).headers.id for delivery in deliveries]


# ---------------------------------------------------------------- processes

CONSUME = """
consumer = transport.consumer()
consumer.add_queue(CELERY)
say("ready")
found = []
while True:
    if len(found) < 64:
        select.select([consumer], [], [], 30)
    found = consumer.fetch(64)
    for delivery in found:
        head = read_head(delivery.payload)
        if head.headers.id == "stop":
            delivery.ack()
            consumer.close(requeue=True)
            sys.exit()
        say(head.headers.id)
        delivery.ack()
"""

PRODUCE = """
producer = transport.producer()
producer.declare([CELERY])
first, last = int(sys.argv[2]), int(sys.argv[3])
names = [str(n) for n in range(first, last)]
for name in names[:100]:
    producer.publish([message(name)])
for start in range(100, len(names), 250):
    producer.publish([message(name) for name in names[start:start + 250]])
"""


def test_20000_through_processes_nothing_lost_nothing_doubled(url: str, stack: ExitStack) -> None:
    consumers = [Script(CONSUME, url) for _ in range(2)]
    for script in consumers:
        stack.callback(script.close)
        assert script.line() == "ready"
    lines: list[str] = []
    readers = [threading.Thread(target=lambda script=script: lines.extend(script.rest())) for script in consumers]
    for reader in readers:
        reader.start()
    producers = [Script(PRODUCE, url, str(first), str(first + 10_000)) for first in (0, 10_000)]
    for script in producers:
        stack.callback(script.close)
        script.rest()
    # A consumer takes one stop and leaves the other: what it had reserved behind it goes back.
    with closing(make(url).producer()) as producer:
        stop = Outgoing(body=b"[]", headers={"task": "t", "id": "stop"}, routing_key="celery", priority=9)
        producer.publish([stop])
        readers_left = len(readers)
        wait_for(lambda: sum(reader.is_alive() for reader in readers) < readers_left, 60, "one consumer to stop")
        producer.publish([stop])
    for reader in readers:
        reader.join(60)
    assert Counter(lines) == Counter(str(n) for n in range(20_000))
    assert make(url).sizes([CELERY]) == {"celery": 0}


HOLD = """
consumer = transport.consumer()
consumer.add_queue(CELERY)
found = consumer.fetch(10)
found[0].ack()
consumer.flush()
consumer.fetch(1)
say(len(found))
sys.stdin.read()
"""


@pytest.mark.acceptance(229)
def test_a_killed_consumers_messages_come_back_once_and_counted(url: str, stack: ExitStack) -> None:
    publish(url, "a", "b", "c")
    script = Script(HOLD, url)
    stack.callback(script.close)
    assert script.line() == "3"
    consumer = consumer_of(stack, url)
    assert consumer.fetch(10) == []
    consumer.heartbeat()
    assert consumer.fetch(10) == []
    script.kill()
    # A producer calls before anybody has looked; what it learns must not be lost.
    publish(url, "d")
    found = consumer.fetch(10)
    assert ids(found) == ["d"]
    # The dead one's lease is good for half a minute; its doorbell, silent at once.
    consumer.heartbeat()
    assert select.select([consumer], [], [], 10)[0]
    found = consumer.fetch(10)
    assert ids(found) == ["b", "c"]
    assert [delivery.deliveries for delivery in found] == [1, 1]
    assert [read_head(delivery.payload).headers.redelivered for delivery in found] == [True, True]
    consumer.heartbeat()
    assert consumer.fetch(10) == []


def test_a_killed_consumers_socket_is_removed(url: str, tmp_path: Path, stack: ExitStack) -> None:
    publish(url, "a")
    script = Script(HOLD.replace("fetch(10)", "fetch(1)"), url)
    stack.callback(script.close)
    assert script.line() == "1"
    consumer = consumer_of(stack, url)
    assert len(os.listdir(tmp_path / "broker.db-wake")) == 2
    script.kill()
    consumer.heartbeat()
    assert len(os.listdir(tmp_path / "broker.db-wake")) == 1


LEDGER = """
consumer = transport.consumer()
consumer.add_queue(CELERY)
ledger = os.open(sys.argv[2], os.O_APPEND | os.O_CREAT | os.O_WRONLY)
say("ready")
found = []
while True:
    if len(found) < 32:
        select.select([consumer], [], [], 0.2)
    consumer.heartbeat()
    found = consumer.fetch(32)
    for delivery in found:
        os.write(ledger, f"{read_head(delivery.payload).headers.id} {delivery.deliveries}\\n".encode())
        time.sleep(0.001)  # the work: whoever is killed is killed in the middle of a batch
        delivery.ack()
"""


def test_consumers_killed_again_and_again_lose_nothing(url: str, tmp_path: Path, stack: ExitStack) -> None:
    ledger = tmp_path / "ledger"

    def start() -> Script:
        script = Script(LEDGER, url, str(ledger))
        stack.callback(script.close)
        assert script.line() == "ready"
        return script

    def lines() -> list[list[str]]:
        return [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []

    sent = {str(n) for n in range(2500)}
    running = [start(), start()]
    publish(url, *sent)
    for kill in range(5):
        wait_for(lambda: len(lines()) > kill * 200, 20, "some to be consumed")  # noqa: B023 - used at once
        running.pop(0).kill()
        running.append(start())
    wait_for(lambda: {name for name, _ in lines()} == sent, 20, lambda: f"all of 2500; there are {len(lines())}")
    firsts = Counter(name for name, deliveries in lines() if deliveries == "0")
    assert firsts.most_common(1)[0][1] == 1
    assert any(deliveries != "0" for _, deliveries in lines())
    wait_for(lambda: make(url).sizes([CELERY]) == {"celery": 0}, 20, "the queue to be empty")


def test_a_consumer_that_starts_finds_what_the_killed_one_left(url: str, stack: ExitStack) -> None:
    publish(url, "a")
    script = Script(HOLD, url)
    stack.callback(script.close)
    assert script.line() == "1"
    script.kill()
    publish(url, "later")
    assert ids(consumer_of(stack, url).fetch(10)) == ["later"]  # "a" was acknowledged
    assert make(url).sizes([CELERY]) == {"celery": 0}


def test_a_stopped_consumers_lease_lapses(url: str, stack: ExitStack) -> None:
    publish(url, "a", "b")
    script = Script("transport = SqliteTransport(sys.argv[1], SqliteOptions(lease=1), {})\n" + HOLD, url)
    stack.callback(script.close)
    assert script.line() == "2"
    os.kill(script.process.pid, signal.SIGSTOP)
    consumer = consumer_of(stack, url)

    def come_back() -> list[Delivery]:
        consumer.heartbeat()
        return list(consumer.fetch(10))

    found = wait_for(come_back, 30, "the lease to lapse")
    assert ids(found) == ["b"]
    assert found[0].deliveries == 1


def test_an_overslept_consumer_settles_what_nobody_else_has(url: str, stack: ExitStack) -> None:
    publish(url, "a", "b")
    sleeper, other = consumer_of(stack, url, lease=1), consumer_of(stack, url)
    done, taken = sleeper.fetch(2)

    def lapsed() -> bool:
        other.heartbeat()
        return make(url).sizes([CELERY])["celery"] == 2

    wait_for(lapsed, 30, "the lease to lapse")
    done.ack()
    sleeper.flush()
    assert make(url).sizes([CELERY]) == {"celery": 1}
    (again,) = other.fetch(10)
    assert ids([again]) == ["b"]
    # Too late: it is somebody else's now.
    taken.ack()
    sleeper.flush()
    again.reject(requeue=True)
    other.flush()
    assert make(url).sizes([CELERY]) == {"celery": 1}
    sleeper.heartbeat()
    assert [delivery.deliveries for delivery in sleeper.fetch(1)] == [2]


def test_what_a_consumer_takes_that_was_struck_off_is_not_nobodys(url: str, stack: ExitStack) -> None:
    publish(url, *range(2))
    held_up = consumer_of(stack, url)
    # Its lease was over, and others noticed, while it waited for the file.
    with closing(sqlite3.connect(database_path(url), isolation_level=None)) as connection:
        connection.execute("DELETE FROM framework_consumers")
    first, second = held_up.fetch(2)
    with closing(sqlite3.connect(database_path(url))) as connection:
        owners = connection.execute("SELECT owner IN (SELECT id FROM framework_consumers) FROM framework_messages")
        assert owners.fetchall() == [(1,), (1,)]
    first.ack()
    second.reject(requeue=True)
    held_up.flush()
    assert ids(held_up.fetch(5)) == ["1"]
    assert count(url, "framework_messages") == 1


def test_a_live_consumer_keeps_its_loans_beyond_the_lease(url: str, stack: ExitStack) -> None:
    publish(url, "a")
    busy, other = consumer_of(stack, url, lease=1), consumer_of(stack, url)
    (loan,) = busy.fetch(1)
    deadlines = set()

    def beyond() -> bool:
        busy.heartbeat()
        other.heartbeat()
        assert other.fetch(1) == []
        with closing(sqlite3.connect(database_path(url))) as connection:
            deadlines.update(connection.execute("SELECT deadline FROM framework_consumers WHERE lease = 1"))
        return len(deadlines) > 4

    wait_for(beyond, 20, "the lease to be renewed several times")
    loan.ack()


def test_loans_of_before_a_reboot_come_back(url: str, stack: ExitStack) -> None:
    publish(url, "a")
    consumer_of(stack, url).fetch(1)
    # The clock that deadlines are told by starts again with the machine, so an old one lies far ahead.
    with closing(sqlite3.connect(database_path(url), isolation_level=None)) as connection:
        connection.execute("UPDATE framework_consumers SET deadline = deadline + 1e6")
    assert ids(consumer_of(stack, url).fetch(1)) == ["a"]


def test_closing_without_requeue_keeps_the_loan_until_the_lease_is_over(url: str, stack: ExitStack) -> None:
    publish(url, "a")
    with closing(make(url, lease=1).producer()):
        lost = make(url, lease=1).consumer()
    lost.add_queue(CELERY)
    assert len(lost.fetch(1)) == 1
    lost.close(requeue=False)
    consumer = consumer_of(stack, url)
    assert consumer.fetch(1) == []

    def come_back() -> list[Delivery]:
        consumer.heartbeat()
        return list(consumer.fetch(1))

    assert wait_for(come_back, 30, "the lease to lapse")[0].deliveries == 1


def test_a_publish_wakes_a_consumer_of_another_process(url: str, stack: ExitStack) -> None:
    code = """
consumer = transport.consumer()
consumer.add_queue(CELERY)
while consumer.fetch(10):
    pass
say("waiting")
assert select.select([consumer], [], [], 30)[0]
say(len(consumer.fetch(10)))
consumer.close(requeue=True)
"""
    script = Script(code, url)
    stack.callback(script.close)
    assert script.line() == "waiting"
    publish(url, "a")
    assert script.rest() == ["1"]


def test_the_heartbeat_finds_what_nobody_rang_for(url: str, stack: ExitStack) -> None:
    consumer = consumer_of(stack, url)
    assert consumer.fetch(1) == []
    consumer.heartbeat()
    consumer.fetch(1)
    assert not select.select([consumer], [], [], 0)[0]
    # As by a producer that died between its commit and its call.
    with closing(sqlite3.connect(database_path(url), isolation_level=None)) as connection:
        connection.execute("INSERT INTO framework_messages (queue, priority, payload) VALUES (1, 0, x'7b7d')")
    consumer.heartbeat()
    assert select.select([consumer], [], [], 10)[0]
    assert [delivery.payload for delivery in consumer.fetch(1)] == [b"{}"]


# ---------------------------------------------------------------- mailboxes of the dead


def subscribed(name: str) -> Queue:
    return Queue(name=f"{name}.celery.pidbox", exchange=PIDBOX, exclusive=True)


def ping() -> Outgoing:
    return Outgoing(body=b"ping", headers={}, exchange="celery.pidbox", exchange_type="fanout", delivery_mode=1)


def count(url: str, table: str) -> int:
    with closing(sqlite3.connect(database_path(url))) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_a_killed_mailbox_vanishes_with_its_mail(url: str, stack: ExitStack) -> None:
    code = """
mailbox = transport.mailbox()
exchange = Exchange(name="celery.pidbox", type="fanout", durable=False)
mailbox.subscribe(Queue(name="x", exchange=exchange))
say("ready")
assert select.select([mailbox], [], [], 30)[0]
say(len(mailbox.receive()))
sys.stdin.read()
"""
    script = Script(code, url)
    stack.callback(script.close)
    assert script.line() == "ready"
    sender = make(url).mailbox()
    stack.callback(sender.close)
    sender.send([ping()])
    assert script.line() == "1"
    script.kill()
    sender.send([ping()])
    assert (count(url, "framework_boxes"), count(url, "framework_mail")) == (0, 0)


def test_mail_that_nobody_fetches_vanishes_and_its_owner_recovers(url: str, stack: ExitStack) -> None:
    mailbox, sender = make(url).mailbox(), make(url).mailbox()
    stack.callback(mailbox.close)
    stack.callback(sender.close)
    mailbox.subscribe(subscribed("one"))
    sender.send([ping()])
    with closing(sqlite3.connect(database_path(url), isolation_level=None)) as connection:
        connection.execute("UPDATE framework_mail SET arrived = arrived - ?", (MAIL_TTL + 1,))
    consumer = consumer_of(stack, url)
    consumer.heartbeat()
    assert (count(url, "framework_boxes"), count(url, "framework_mail")) == (0, 0)
    assert mailbox.receive() == ()
    sender.send([ping()])
    assert [exchange for exchange, _ in mailbox.receive()] == ["celery.pidbox"]


def test_what_nobody_listens_to_is_not_written(url: str, stack: ExitStack) -> None:
    sender = make(url).mailbox()
    stack.callback(sender.close)
    consumer = consumer_of(stack, url)
    with closing(sqlite3.connect(database_path(url))) as connection:
        before = connection.execute("PRAGMA data_version").fetchone()
        sender.send([ping()])
        assert connection.execute("PRAGMA data_version").fetchone() == before
    consumer.fetch(1)


def test_a_flood_is_received_in_parts(url: str, stack: ExitStack) -> None:
    mailbox, sender = make(url).mailbox(), make(url).mailbox()
    stack.callback(mailbox.close)
    stack.callback(sender.close)
    mailbox.subscribe(subscribed("one"))
    sender.send([ping() for _ in range(1200)])
    received = 0
    while received < 1200:
        assert select.select([mailbox], [], [], 10)[0]
        received += len(mailbox.receive())
    assert received == 1200


# ---------------------------------------------------------------- forks


def in_a_fork(work: Any) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_producer_works_on_both_sides_of_a_fork(url: str, stack: ExitStack) -> None:
    producer = make(url).producer()
    stack.callback(producer.close)
    consumer = consumer_of(stack, url)
    producer.publish([message("before")])
    assert in_a_fork(lambda: producer.publish([message("child")])) == 0
    producer.publish([message("after")])
    assert ids(consumer.fetch(10)) == ["before", "child", "after"]


def test_a_forked_child_leaves_the_parents_consumer_alone(url: str, stack: ExitStack) -> None:
    publish(url, "a")
    consumer = consumer_of(stack, url)
    (loan,) = consumer.fetch(1)
    mailbox = make(url).mailbox()
    stack.callback(mailbox.close)
    mailbox.subscribe(subscribed("one"))

    def close_everything() -> None:
        consumer.close(requeue=True)
        mailbox.close()

    assert in_a_fork(close_everything) == 0
    consumer.heartbeat()
    loan.ack()
    assert consumer.fetch(1) == []
    assert make(url).sizes([CELERY]) == {"celery": 0}
    publish(url, "b")
    assert select.select([consumer], [], [], 10)[0]
    with closing(make(url).mailbox()) as sender:
        sender.send([ping()])
    assert len(mailbox.receive()) == 1


def test_forks_while_threads_publish(url: str, stack: ExitStack) -> None:
    producer = make(url, synchronous="normal").producer()
    stack.callback(producer.close)
    stop = threading.Event()
    sent: list[str] = []

    def publish_on() -> None:
        while not stop.is_set():
            name = f"p{len(sent)}"
            producer.publish([message(name)])
            sent.append(name)

    thread = threading.Thread(target=publish_on)
    thread.start()
    for n in range(20):
        assert in_a_fork(lambda n=n: producer.publish([message(f"c{n}")])) == 0
    stop.set()
    thread.join()
    found = ids(consumer_of(stack, url).fetch(100_000))
    assert Counter(found) == Counter(sent) + Counter(f"c{n}" for n in range(20))


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite://", "framework.db"),
        ("sqlite:///", "framework.db"),
        ("sqlite:///x/y.db", "x/y.db"),
        ("sqlite:////tmp/a%20b.db", "/tmp/a b.db"),
    ],
)
def test_urls(url: str, path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert database_path(url) == os.path.join(tmp_path, path)
    transport = make(url)
    monkeypatch.chdir("/")
    assert transport.path == os.path.join(tmp_path, path)


@pytest.mark.parametrize("url", ["sqlite", "sqlite://host.db", "sqlite:///:memory:", "sqlite:///x.db?mode=ro"])
def test_wrong_urls(url: str) -> None:
    with pytest.raises(ConfigError, match="sqlite:///"):
        make(url)


def test_the_files_are_for_their_user_alone(url: str) -> None:
    path = Path(database_path(url))
    mask = os.umask(0)
    try:
        publish(url, 1)
        consumer = make(url).consumer()
        files = list(path.parent.glob(f"{path.name}*"))
        assert path in files
        assert {oct(file.stat().st_mode & 0o777) for file in files if file.is_file()} == {"0o600"}
        consumer.close(requeue=True)
    finally:
        os.umask(mask)
    path.chmod(0o660)
    publish(url, 2)
    assert path.stat().st_mode & 0o777 == 0o660


def test_a_file_that_is_no_database(url: str) -> None:
    path = Path(database_path(url))
    path.write_text("my notes, which nobody may touch\n" * 500)
    before = path.read_bytes()
    with pytest.raises(ConnectionLost, match=f"{path} is not a SQLite database"):
        make(url).producer()
    assert path.read_bytes() == before


def test_a_damaged_file(url: str) -> None:
    publish(url, *range(2000))
    path = Path(database_path(url))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    with pytest.raises(ConnectionLost, match=f"{path} is damaged"), closing(make(url).producer()) as producer:
        producer.publish([message("x")])


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost, match=r"missing/x\.db cannot be opened: its directory must exist"):
        make(f"sqlite:///{tmp_path}/missing/x.db").consumer()


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Permissions do not bind root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def readonly_url() -> Iterator[str]:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/broker.db"
        publish(url, "a")
        os.chmod(f"{directory}/broker.db", 0o444)
        os.chmod(directory, 0o555)
        yield url
        os.chmod(directory, 0o755)


def test_a_directory_that_may_not_be_written(readonly_url: str, as_nobody: None) -> None:
    for face in (make(readonly_url).producer, make(readonly_url).consumer, make(readonly_url).mailbox):
        with pytest.raises(ConnectionLost, match=r"broker\.db cannot be (opened|written)"):
            face().publish([message("x")])  # type: ignore[union-attr]


def test_a_file_removed_while_in_use(url: str, stack: ExitStack) -> None:
    producer = make(url).producer()
    stack.callback(producer.close)
    producer.publish([message("a")])
    os.unlink(database_path(url))
    with pytest.raises(ConnectionLost, match="was removed or replaced"):
        producer.publish([message("b")])


def test_a_writer_that_hangs(url: str) -> None:
    publish(url, "a")
    with closing(sqlite3.connect(database_path(url), isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with (
            closing(make(url, busy_timeout=0.1).producer()) as producer,
            pytest.raises(ConnectionLost, match=r"stayed locked by another process for 0\.1 s"),
        ):
            producer.publish([message("b")])
        connection.execute("ROLLBACK")
    assert make(url).sizes([CELERY]) == {"celery": 1}


def test_a_full_disk(url: str) -> None:
    with closing(make(url).producer()) as producer:
        producer.publish([message("a")])
        with producer._database.read() as connection:  # type: ignore[attr-defined]
            connection.execute("PRAGMA max_page_count = 40")
        with pytest.raises(ConnectionLost, match="its disk is full"):
            producer.publish([Outgoing(body=b"x" * 1_000_000, headers={}, routing_key="celery")])
        producer.publish([message("b")])
    assert make(url).sizes([CELERY]) == {"celery": 2}


def test_a_file_of_another_release(url: str) -> None:
    publish(url, "a")
    with closing(sqlite3.connect(database_path(url), isolation_level=None)) as connection:
        connection.execute("UPDATE framework_schema SET version = 99")
    with pytest.raises(TransportError, match="version 99 of the broker tables"):
        make(url).producer()


def test_it_shares_a_file_with_tables_of_others(url: str) -> None:
    with closing(sqlite3.connect(database_path(url), isolation_level=None)) as connection:
        connection.execute("CREATE TABLE messages (id)")
    publish(url, "a")
    assert make(url).sizes([CELERY]) == {"celery": 1}


def test_a_deep_directory(tmp_path: Path, stack: ExitStack) -> None:
    directory = tmp_path.joinpath(*["d" * 60] * 4)
    directory.mkdir(parents=True)
    url = f"sqlite:///{directory}/broker.db"
    consumer = consumer_of(stack, url)
    assert consumer.fetch(1) == []
    publish(url, "a")
    assert select.select([consumer], [], [], 10)[0]
    assert ids(consumer.fetch(1)) == ["a"]


def test_nothing_is_left_beside_the_file(url: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        publish(url, "a")
        consumer_of(stack, url).fetch(1)
        assert (tmp_path / "broker.db-wake").is_dir()
    assert sorted(os.listdir(tmp_path)) == ["broker.db"]


def test_many_open_a_new_file_at_once(url: str, stack: ExitStack) -> None:
    code = "transport.producer().publish([message(sys.argv[2])])"
    scripts = [Script(code, url, str(n)) for n in range(6)]
    for script in scripts:
        stack.callback(script.close)
    for script in scripts:
        script.rest()
    assert make(url).sizes([CELERY]) == {"celery": 6}


def test_a_full_commit_and_a_normal_one(url: str) -> None:
    for synchronous, expected in (("full", 2), ("normal", 1)):
        with closing(make(url, synchronous=synchronous).producer()) as producer:
            producer.publish([message("a")])
            with producer._database.read() as connection:  # type: ignore[attr-defined]
                assert connection.execute("PRAGMA synchronous").fetchone() == (expected,)


def test_settings_are_json(url: str) -> None:
    assert json.loads(json.dumps(make(url).info()))["virtual_host"] == database_path(url)
