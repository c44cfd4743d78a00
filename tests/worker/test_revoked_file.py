"""The state file: what outlives a worker, and what a file may do to it."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from framework.worker.dispatch import revoked_file as module
from framework.worker.dispatch.revoked import Revokes
from framework.worker.dispatch.revoked_file import StateFile, StateFileUnusable
from support.wait import wait_for


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.state"


def remembered(path):
    revokes = Revokes(file=StateFile(str(path)))
    try:
        return revokes.list()
    finally:
        revokes.close()


@pytest.mark.acceptance(94)
def test_ids_come_back_in_order(path):
    revokes = Revokes(file=StateFile(str(path)))
    revokes.add(["d", "b", "c"])
    revokes.add(["a", "d"])
    revokes.remove(["b"])
    revokes.close()
    assert remembered(path) == ["c", "a", "d"]


def test_what_is_dropped_is_dropped_from_the_file_too(path):
    revokes = Revokes(maximum=10, file=StateFile(str(path)))
    for number in range(50):
        revokes.add([str(number)])
    expected = revokes.list()
    revokes.close()
    assert remembered(path) == expected


def test_ids_keep_the_time_at_which_they_were_revoked(path, monkeypatch):
    first = Revokes(expires=100.0, file=StateFile(str(path)))
    first.add(["a"])
    first.close()
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE revoked SET since = since - 200")
    second = Revokes(expires=100.0, file=StateFile(str(path)))
    assert second.list() == []
    assert len(second) == 0
    second.close()


def test_times_to_come_are_taken_as_now(path):
    first = Revokes(expires=100.0, file=StateFile(str(path)))
    first.add(["a"])
    first.close()
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE revoked SET since = since + 1000000")
    second = Revokes(expires=0.0, file=StateFile(str(path)))
    assert second.list() == []
    second.close()


@pytest.mark.acceptance(95)
def test_survives_the_death_of_its_process(path):
    code = (
        "import sys, time\n"
        "from framework.worker.dispatch.revoked import Revokes\n"
        "from framework.worker.dispatch.revoked_file import StateFile\n"
        "revokes = Revokes(file=StateFile(sys.argv[1]))\n"
        "for number in range(100000):\n"
        "    revokes.add([f'id{number}'])\n"
        "    print(number, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        last = -1
        for line in process.stdout:
            last = int(line)
            if last == 200:
                process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert remembered(path)[: last + 1] == [f"id{number}" for number in range(last + 1)]


@pytest.fixture
def small_files():
    """Return a function that lets no file grow beyond so many bytes, as on a full disk, and one that lifts that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_told_once_and_made_up_for(path, small_files, caplog, monkeypatch):
    limit, lift = small_files
    revokes = Revokes(file=StateFile(str(path)))
    revokes.add(["before"])
    caplog.set_level(logging.INFO)
    limit(os.path.getsize(path) + 8192)
    many = [f"{number:032}" for number in range(5000)]
    revokes.add(many)
    revokes.add(["during"])
    lift()
    assert caplog.text.count("cannot be written") == 1
    assert "kept in memory until it can" in caplog.text
    assert "during" in revokes
    assert "before" in revokes
    monkeypatch.setattr(module, "_RETRY", 0.0)
    revokes._file._retry_at = 0.0  # the wait is over
    revokes.add(["after"])
    assert "can be written again" in caplog.text
    expected = revokes.list()
    revokes._file._connection.close()  # no last words: it is all there now
    assert sorted(remembered(path)) == sorted(expected)


def test_what_is_behind_is_written_at_the_end(path, small_files):
    limit, lift = small_files
    revokes = Revokes(file=StateFile(str(path)))
    limit(os.path.getsize(path))
    revokes.add([f"{number:032}" for number in range(5000)])
    lift()
    revokes.close()
    assert len(remembered(path)) == 5000


def fill(path, count=2000):
    revokes = Revokes(file=StateFile(str(path)))
    revokes.add([f"{number:032}" for number in range(count)])
    revokes.close()


@pytest.mark.parametrize("length", [0.5, 0.9, 100, 4096, 5])
def test_a_truncated_file_is_set_aside(path, length, caplog):
    fill(path)
    size = os.path.getsize(path)
    os.truncate(path, int(size * length) if length < 1 else length)
    revokes = Revokes(file=StateFile(str(path)))
    revokes.add(["new"])
    revokes.close()
    assert remembered(path) == ["new"]
    assert "is damaged" in caplog.text
    (aside,) = path.parent.glob("w.state.damaged-*")
    assert str(aside) in caplog.text


def test_an_empty_file_is_a_new_one(path, caplog):
    path.touch()
    revokes = Revokes(file=StateFile(str(path)))
    revokes.add(["a"])
    revokes.close()
    assert remembered(path) == ["a"]
    assert not caplog.text


def test_rubbish_inside_is_set_aside(path, caplog):
    fill(path)
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(8192))
    revokes = Revokes(file=StateFile(str(path)))
    assert revokes.list() == []
    revokes.close()
    assert "is damaged" in caplog.text


@pytest.mark.parametrize(
    "content", [b"\x80\x04}q\x00.", bytes(8192), b"hello world, this is no database\n" * 200, b"PK\x03\x04"]
)
def test_a_file_that_cannot_be_read_is_set_aside_as_it_is(path, content, caplog):
    path.write_bytes(content)
    revokes = Revokes(file=StateFile(str(path)))
    revokes.add(["new"])
    revokes.close()
    assert remembered(path) == ["new"]
    (aside,) = path.parent.glob("w.state.damaged-*")
    assert aside.read_bytes() == content
    [line] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert f"renamed to {aside}" in line.getMessage()


def test_a_state_file_without_its_table_is_set_aside(path, caplog):
    fill(path)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("DROP TABLE revoked")
    revokes = Revokes(file=StateFile(str(path)))
    assert revokes.list() == []
    revokes.close()
    assert "no such table" in caplog.text


def test_another_programs_database_is_refused_and_left_as_it_is(path):
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("CREATE TABLE accounts (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(StateFileUnusable, match="not a state file of this program"):
        StateFile(str(path))
    assert path.read_bytes() == before


def test_a_shelf_is_never_unpickled(path, tmp_path):
    import dbm.dumb
    import pickle

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    with dbm.dumb.open(str(path), "n") as shelf:
        shelf[b"zrevoked"] = pickle.dumps(Trap())
    os.replace(f"{path}.dat", path)
    Revokes(file=StateFile(str(path))).close()
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("where", ["missing/w.state", "."])
def test_a_place_where_no_file_can_be_is_named(tmp_path, where):
    with pytest.raises(StateFileUnusable, match="cannot be used: "):
        StateFile(str(tmp_path / where))


def test_two_workers_may_share_a_file(path):
    one, two = Revokes(file=StateFile(str(path))), Revokes(file=StateFile(str(path)))
    one.add(["a"])
    two.add(["b"])
    one.close()
    two.close()
    wait_for(lambda: sorted(remembered(path)) == ["a", "b"], 5)
