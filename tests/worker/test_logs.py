"""The log: JSON, colour, and files that are rotated."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading

import msgspec
import pytest

from framework._config.settings import WorkerSettings
from framework.client.request import Context, pop_request, push_request
from framework.worker.process import log_locks
from framework.worker.process.log_locks import LogLock
from framework.worker.process.logs import LogFile, LogOutput, make_formatter, redirect_stdouts
from support.wait import wait_for


class Terminal:
    def isatty(self):
        return True


def record(message, *args, level=logging.WARNING, exc_info=None, name="x.y"):
    return logging.LogRecord(name, level, __file__, 1, message, args, exc_info)


def test_json_is_one_object_a_line():
    formatter = make_formatter(WorkerSettings(log_format="json"), None)
    try:
        raise ValueError("no\ngood")
    except ValueError:
        line = formatter.format(record("a %s\nb", "\udcff", exc_info=sys.exc_info()))
    assert "\n" not in line
    found = json.loads(line)
    assert found["time"].endswith("+00:00")
    assert (found["level"], found["logger"], found["message"]) == ("WARNING", "x.y", "a ?\nb")
    assert (found["process"], found["pid"]) == ("MainProcess", os.getpid())
    assert found["exception"].endswith("ValueError: no\ngood")
    assert "task" not in found


@pytest.mark.parametrize(
    ("settings", "terminal", "logfile", "variable", "colored"),
    [
        ({}, True, None, None, True),
        ({}, True, None, "", True),
        ({}, True, None, "1", False),
        ({}, True, "w.log", None, False),
        ({}, False, None, None, False),
        ({"log_color": True}, False, None, "1", True),
        ({"log_color": False}, True, None, None, False),
    ],
)
def test_colour_is_for_terminals(settings, terminal, logfile, variable, colored, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    if variable is not None:
        monkeypatch.setenv("NO_COLOR", variable)
    monkeypatch.setattr(sys, "__stderr__", Terminal() if terminal else None)
    text = make_formatter(WorkerSettings(**settings), logfile).format(record("hot"))
    assert text.startswith("\033[33m") == colored


def test_a_rotated_file_is_opened_anew_for_the_descriptors_too(tmp_path):
    path = tmp_path / "w.log"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    saved = os.dup(2)
    try:
        os.dup2(fd, 2)
        handler = LogFile(path)
        handler.emit(record("one"))
        path.rename(tmp_path / "w.log.1")
        handler.emit(record("two"))
        os.write(2, b"three\n")
        handler.close()
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(fd)
    assert (tmp_path / "w.log.1").read_text() == "one\n"
    assert path.read_text() == "two\nthree\n"


def test_the_times_of_tasks_have_a_format_of_their_own():
    worker = WorkerSettings(log_format="%(asctime)s", task_log_format="task %(asctime)s", log_datefmt="outside")
    own = msgspec.structs.replace(worker, task_log_datefmt="inside")
    token = push_request(Context({"id": "1", "task": "t"}))
    try:
        said = [make_formatter(each, None).format(record("x", name="framework.task.t")) for each in (worker, own)]
    finally:
        pop_request(token)
    assert said == ["task outside", "task inside"]
    assert make_formatter(own, None).format(record("x")) == "outside"


def test_lines_that_a_full_pipe_refuses_are_counted():
    read, write = os.pipe()
    os.set_blocking(write, False)
    with os.fdopen(read, "rb", buffering=0) as reader, os.fdopen(write, "w") as writer:
        handler = LogOutput(writer)
        while not handler._dropped:
            handler.emit(record("x" * 1000))
        handler.emit(record("never seen"))
        reader.read(1 << 20)
        handler.emit(record("one"))
        handler.emit(record("two"))
        lines = reader.read(1 << 20).decode().splitlines()
    note = "2 lines of the log could not be written and were dropped: Resource temporarily unavailable"
    assert lines[-3:] == [note, "one", "two"]
    assert lines[:-3] in ([], [""])  # a line that was cut off is ended


# ---------------------------------------------------------------- the output of tasks


@pytest.fixture
def redirected(monkeypatch, caplog):
    """Redirect the output, when called: pytest replaces it for the test itself. Returns what gives the records."""

    def redirect():
        monkeypatch.setattr(sys, "stdout", sys.stdout)
        monkeypatch.setattr(sys, "stderr", sys.stderr)
        redirect_stdouts("WARNING")
        return lambda: [each.getMessage() for each in caplog.records if each.name == "framework.task.output"]

    return redirect


def test_a_printed_line_is_one_record(redirected):
    printed = redirected()
    print("a", "b", 3, sep=", ")
    print("begun", end="")
    print(" and", end=" ")
    assert printed() == ["a, b, 3"]
    print("ended")
    print("two\nlines")
    print()
    sys.stdout.writelines(["x", "y\n", "z\n"])
    print("dos\r\nmac\rend")
    assert printed() == ["a, b, 3", "begun and ended", "two", "lines", "xy", "z", "dos", "mac", "end"]


def test_a_line_is_logged_when_it_is_flushed_or_too_long(redirected):
    printed = redirected()
    print("no end", end="", flush=True)
    assert printed() == ["no end"]
    sys.stdout.flush()
    print("y" * 70_000, end="")
    assert printed() == ["no end", "y" * 70_000]


def test_threads_do_not_mix_their_lines(redirected):
    printed = redirected()
    print("main ", end="")
    other = threading.Thread(target=print, args=("other",))
    other.start()
    other.join()
    print("end")
    assert printed() == ["other", "main end"]


def test_the_stream_is_a_text_file(redirected):
    printed = redirected()
    for stream in (sys.stdout, sys.stderr):
        assert not stream.closed
        assert stream.writable()
        assert not stream.readable()
        assert not stream.isatty()
        assert (stream.encoding, stream.errors, stream.name) == ("utf-8", "backslashreplace", "<log>")
        assert stream.write("four") == 4
        stream.reconfigure(line_buffering=False)
        stream.close()
        assert not stream.closed
    smile = "\N{SLIGHTLY SMILING FACE}\udcff\n"
    print(smile, end="")
    for byte in "caf\u00e9\n".encode():
        sys.stdout.buffer.write(bytes([byte]))
    with pytest.raises(TypeError):
        sys.stdout.write(b"bytes")
    assert printed() == ["four", "four", "\N{SLIGHTLY SMILING FACE}\\udcff", "caf\u00e9"]


# ---------------------------------------------------------------- what comes from outside


def test_names_are_cut_and_texts_later():
    formatter = make_formatter(WorkerSettings(log_format="%(message)s"), None)

    def shown(message, *args, name="framework.worker.x"):
        return formatter.format(record(message, *args, name=name))

    name, text = "n" * 1000, "t" * 10_000
    assert (
        shown("Task %s[%s] retry: %s", name, name, text)
        == f"Task {'n' * 255}...[{'n' * 255}...] retry: {'t' * 4096}..."
    )
    assert shown("Terminating %s (%d)", name, 15) == f"Terminating {'n' * 255}... (15)"
    assert shown("%r is not %5.1f", name, 1.0) == f"'{'n' * 254}... is not   1.0"
    assert shown("%s", ValueError(text)) == f"{'t' * 4096}..."
    assert shown("no argument " + name) == "no argument " + name
    assert shown("from a library: %s", name, name="library") == f"from a library: {name}"


def test_further_lines_are_indented_and_controls_escaped():
    formatter = make_formatter(WorkerSettings(log_format="%(message)s"), None)
    evil = "a\nb\r\x1b[2J\u2028c\td"
    assert formatter.format(record("%s %s", evil, 1, name="framework.x")) == "a\\nb\\r\\x1b[2J\\u2028c\\td 1"
    assert formatter.format(record("%s", evil, name="library")) == "a\n  b\\r\\x1b[2J\\u2028c\td"
    assert formatter.format(record("stack of %s:\n%s", evil, "one\ntwo", name="framework.x")) == (
        "stack of a\\nb\\r\\x1b[2J\\u2028c\\td:\n  one\n  two"
    )
    try:
        raise ValueError("a\nforged\x1b")
    except ValueError:
        text = formatter.format(record("it failed", exc_info=sys.exc_info()))
    assert text.startswith("it failed\n  Traceback (most recent call last):\n")
    assert text.endswith("\n  ValueError: a\n  forged\\x1b")
    assert formatter.format(record("naïve 名前 \N{IDEOGRAPHIC SPACE}")) == "naïve 名前 \N{IDEOGRAPHIC SPACE}"


def test_the_task_in_front_of_its_lines_is_cut():
    token = push_request(Context({"id": "i" * 1000, "task": "t\n"}))
    try:
        settings = WorkerSettings(task_log_format="%(task_name)s[%(task_id)s]: %(message)s")
        text = make_formatter(settings, None).format(record("x" * 1000, name="framework.task.t"))
        line = make_formatter(WorkerSettings(log_format="json"), None).format(record("\u2028", name="framework.task.t"))
    finally:
        pop_request(token)
    assert text == f"t\\n[{'i' * 255}...]: {'x' * 1000}"
    assert "\u2028" not in line
    assert (json.loads(line)["id"], json.loads(line)["message"]) == ("i" * 255 + "...", "\u2028")


def test_a_lock_of_the_log_is_kept_by_who_logs_and_by_nobody_else(monkeypatch):
    looks = []
    logs = log_locks._logs
    monkeypatch.setattr(log_locks, "_logs", lambda owner: looks.append(owner) or logs(owner))
    lock = LogLock()
    release, taken = threading.Event(), threading.Event()

    def keep():
        lock.acquire()
        taken.set()
        release.wait(60)

    class Slow(logging.Handler):
        def emit(self, record):
            keep()
            lock.release()

    logger = logging.Logger("slow")
    logger.addHandler(Slow())
    slow = threading.Thread(target=logger.warning, args=("x",))
    slow.start()
    taken.wait(60)
    # Its owner logs: who waits, waits.
    waiting = threading.Thread(target=lambda: (lock.acquire(), lock.release()), daemon=True)
    waiting.start()
    wait_for(lambda: len(looks) >= 3, 60, "looks at the owner")
    assert waiting.is_alive()
    release.set()
    waiting.join(60)
    slow.join(60)

    release.clear()
    taken.clear()
    keeper = threading.Thread(target=keep)
    keeper.start()
    taken.wait(60)
    assert lock.acquire()  # its owner does not log
    with lock:
        lock.release()
    release.set()
    keeper.join(60)
    lock.release()  # harmless: not its own any more


def test_a_lock_of_a_dead_thread_is_free_again():
    lock = LogLock()
    thread = threading.Thread(target=lock.acquire)
    thread.start()
    thread.join(60)
    with lock:
        pass
