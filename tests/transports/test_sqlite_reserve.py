"""A disk that the embedded broker's own messages have filled can be drained, and then takes messages again."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framework.api.transport import Queue
from framework.exceptions import ConnectionLost
from framework.message import Outgoing, read_head
from framework_transports.sqlite import SqliteOptions, SqliteTransport
from framework_transports.sqlite.reserve import SIZE
from support import ledger
from support.wait import wait_for

Q = Queue(name="q")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with a little room; needs the right to mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mounting, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this user may not mount a file system of limited size")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def transport_in(directory: Path) -> SqliteTransport:
    return SqliteTransport(f"sqlite:///{directory}/broker.db", SqliteOptions(), {})


def message(number: int, size: int) -> Outgoing:
    return Outgoing(b"x" * size, headers={"task": "t", "id": str(number)}, routing_key="q")


def fill(transport: SqliteTransport, size: int, at_once: int) -> int:
    """Publish until the disk is full, and return how many messages were accepted."""
    producer, count = transport.producer(), 0
    for many in (at_once, 1):
        full = ""
        while not full:
            try:
                producer.publish([message(count + number, size) for number in range(many)])
                count += many
            except ConnectionLost as error:
                full = str(error)
        assert "its disk is full" in full
    producer.close()
    return count


def drain(transport: SqliteTransport) -> list[int]:
    """Run what waits as a worker does, which connects again when it finds the disk full."""
    found: list[int] = []
    for _ in range(5):
        consumer = None
        try:
            consumer = transport.consumer()
            consumer.add_queue(Q)
            while batch := consumer.fetch(50):
                for delivery in batch:
                    found.append(int(str(read_head(delivery.payload).headers.id)))
                    delivery.ack()
        except ConnectionLost as error:
            lost = error
        else:
            return found
        finally:
            if consumer is not None:
                consumer.close(requeue=True)
    raise AssertionError(f"{len(found)} messages were run") from lost


@pytest.mark.parametrize(("size", "at_once"), [(100, 100), (5_000, 20), (200_000, 1)])
def test_a_full_disk_is_drained(small_disk: Path, size: int, at_once: int) -> None:
    transport = transport_in(small_disk)
    count = fill(transport, size, at_once)
    assert drain(transport) == list(range(count))
    producer = transport.producer()
    producer.publish([message(count, size)])
    producer.close()
    assert drain(transport) == [count]


def test_a_worker_runs_what_has_filled_the_disk(
    small_disk: Path, tmp_path: Path, start_worker: Any, client: Any
) -> None:
    url, book = f"sqlite:///{small_disk}/broker.db", tmp_path / "book"
    app = client(url)
    entries = [f"known-{number}" for number in range(20)]
    for entry in entries:
        app.tasks["proj.record"].apply_async((entry,))
    fill(transport_in(small_disk), 5_000, 20)
    worker = start_worker("-P", "threads", "-c", "2", broker=url, ledger=book)
    wait_for(lambda: ledger.size(book) >= len(entries), 60, lambda: worker.output[-2000:])
    assert worker.stop() == 0
    assert dict(ledger.read(book)) == dict.fromkeys(entries, 1)


# ---------------------------------------------------------------- by itself


def gather(consumer: Any) -> list[Any]:
    """Return all that waits: while the disk is full it comes in small batches."""
    found: list[Any] = []
    while batch := consumer.fetch(50):
        found += batch
    return found


def exhausted(consumer: Any) -> None:
    """Have the consumer find the disk full."""
    consumer._database.on_full()


def test_the_room_that_is_left_is_for_consumers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    transport = transport_in(tmp_path)
    producer, consumer = transport.producer(), transport.consumer()
    consumer.add_queue(Q)
    reserve = tmp_path / "broker.db-reserve"
    assert reserve.stat().st_size == SIZE
    producer.publish([message(number, 500_000) for number in range(20)])
    with caplog.at_level(logging.WARNING):
        exhausted(consumer)
        exhausted(consumer)
    assert reserve.stat().st_size == 0
    assert len([record for record in caplog.records if "Nothing more is accepted" in record.getMessage()]) == 1
    with pytest.raises(ConnectionLost, match="its disk is full, and the room that is left is kept"):
        producer.publish([message(20, 1)])
    assert len(consumer.fetch(20)) < 20
    consumer.close(requeue=True)
    consumer = transport.consumer()
    consumer.add_queue(Q)
    waiting = gather(consumer)
    assert len(waiting) == 20
    for delivery in waiting:
        delivery.ack()
    consumer.flush()
    # What was run has left room in the file.
    producer.publish([message(21, 1)])
    assert len(consumer.fetch(9)) == 1
    producer.close()
    consumer.close(requeue=True)


def test_it_is_kept_again_when_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = transport_in(tmp_path)
    producer, consumer = transport.producer(), transport.consumer()
    reserve = tmp_path / "broker.db-reserve"
    exhausted(consumer)
    disk = os.statvfs(tmp_path)
    with monkeypatch.context() as patch:
        full = os.statvfs_result([*disk[:4], 2 * SIZE // disk.f_frsize - 1, *disk[5:]])
        patch.setattr(os, "statvfs", lambda path: full)
        consumer.heartbeat()
        assert reserve.stat().st_size == 0
        with pytest.raises(ConnectionLost):
            producer.publish([message(0, 1)])
    consumer.heartbeat()
    assert reserve.stat().st_size == SIZE
    producer.publish([message(1, 1)])
    producer.close()
    consumer.close(requeue=True)


def test_sqlite_says_that_the_disk_is_full(tmp_path: Path) -> None:
    """The error of a statement frees the reserve, whichever it is."""
    transport = transport_in(tmp_path)
    consumer = transport.consumer()
    with consumer._database.read() as connection:
        connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(ConnectionLost, match="its disk is full"), consumer._database.write() as connection:
        connection.execute("CREATE TABLE more (room)")
    assert (tmp_path / "broker.db-reserve").stat().st_size == 0
    consumer.close(requeue=True)
