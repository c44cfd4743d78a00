"""The log: JSON, colour, and files that are rotated."""

from __future__ import annotations

import json
import logging
import os
import sys

import msgspec
import pytest

from framework._config.settings import WorkerSettings
from framework.client.request import Context, pop_request, push_request
from framework.worker.process.logs import LogFile, make_formatter


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
