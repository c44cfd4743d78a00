"""Names and ids with line ends, terminal commands and a million characters: no log line is forged, none is endless."""

from __future__ import annotations

import json
import re

import pytest

from support.wait import wait_for
from support.workers import run_command

#: What nobody may get onto a line of its own, or to a terminal.
FORGED = "[2026-01-01 00:00:00,000: CRITICAL/MainProcess] forged"
EVIL = f"x\n{FORGED}\r{FORGED}\u2028{FORGED}\x1b[31mred\x1b]0;title\x07\x9b2J\x00"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def check(text):
    """Check what was printed or logged."""
    assert not CONTROL.search(text), CONTROL.findall(text)
    assert not [line for line in text.splitlines() if line.startswith(FORGED)]
    assert max(map(len, text.splitlines()), default=0) < 20_000


@pytest.mark.parametrize(("pool", "style"), [("prefork", "text"), ("threads", "text"), ("threads", "json")])
def test_hostile_names(pool, style, sqlite_url, start_worker, client):
    app = client(sqlite_url, sqlite_url)
    options = ["--log-json"] if style == "json" else []
    worker = start_worker(
        "-P", pool, "-c", "1", "-E", "-l", "info", "-Q", "celery", *options,
        broker=sqlite_url, backend=sqlite_url, conf={"task": {"unknown_retries": 0}}, ready=False,
    )  # fmt: skip
    worker.wait_line(r"\S+@\S+ ready\.")
    for number, evil in enumerate((EVIL, "y" * 1_000_000)):
        app.send_task("proj.add", (1, 2), task_id=f"{number} {evil}")
        app.send_task("proj.add", (1, "a"), task_id=f"fail {number} {evil}", shadow=evil)
        app.send_task("proj.fail", (evil,), task_id=f"text {number} {evil}")
        app.send_task(evil, task_id=f"unknown {number} {evil}")
        app.send_task("proj.add", (), task_id=f"revoked {number} {evil}", expires=-1)
        app.send_task("proj.add", (1, 2), task_id=f"later {number} {evil}", countdown=3600)
        app.control.add_consumer(evil, reply=True, timeout=30)
        app.control.revoke(f"later {number} {evil}", terminate=True)
    last = app.send_task("proj.add", (1, 2))
    assert last.get(timeout=60) == 3
    wait_for(lambda: len(app.control.inspect(timeout=30).scheduled() or ()) == 1, 60, "an answer")
    for command in (
        ("inspect", "scheduled"),
        ("inspect", "active_queues"),
        ("inspect", "revoked"),
        ("inspect", "revoked", "--json"),
        ("dlq", "list"),
        ("dlq", "show"),
        ("dlq", "show", "--json"),
        ("queues",),
        ("status",),
    ):
        done = run_command("-A", "proj", "-b", sqlite_url, *command, timeout=60)
        text = done.stdout + done.stderr
        assert text, command
        assert not CONTROL.search(text)
        if "--json" in command:
            json.loads(done.stdout)
        elif command != ("dlq", "show"):  # it shows the whole message
            check(text)
    assert worker.stop() == 0
    check(worker.output)
    if style == "json":
        for line in worker.output.splitlines():
            if line.startswith("{"):
                json.loads(line)
