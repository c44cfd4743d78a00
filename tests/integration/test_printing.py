"""What tasks print is in the log, one record a line, whatever the pool."""

from __future__ import annotations

import re

import pytest

from support.wait import wait_for

APP = """
import sys
from framework import App

app = App("printing", broker="sqlite:///printing.db", backend="sqlite:///printing.db")

@app.task
def speak(word):
    print(word, "b", 3, sep=", ")
    print(word, "begun", end=" ")
    print("and ended")
    sys.stdout.buffer.write(word.encode() + b" bytes\\n")
    print(word, "without an end", end="")

@app.task
async def aspeak(word):
    import asyncio
    print(word, "begun", end=" ")
    await asyncio.sleep(0)
    print("and ended")
    print(word, "without an end", end="")
"""


def lines(worker, name, task_id):
    return re.findall(rf"printing\.{name}\[{task_id}\]: (.*)", worker.output)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent", "eventlet", "asyncio"])
def test_a_line_is_one_record_of_its_task(pool, tmp_path, start_worker, monkeypatch):
    (tmp_path / "printing.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = start_worker("-P", pool, "-c", "2", app="printing", app_dir=tmp_path)
    import printing

    with printing.app:
        sent = {word: printing.speak.delay(word) for word in ("one", "two", "three")}
        if pool == "asyncio":
            later = {word: printing.aspeak.delay(word) for word in ("four", "five", "six")}
            for word, result in later.items():
                result.get(timeout=60)
                wanted = [f"{word} begun and ended", f"{word} without an end"]
                wait_for(lambda r=result, w=wanted: lines(worker, "aspeak", r.id) == w, 60, lambda: worker.output)
        for word, result in sent.items():
            result.get(timeout=60)
            wanted = [f"{word}, b, 3", f"{word} begun and ended", f"{word} bytes", f"{word} without an end"]
            wait_for(lambda r=result, w=wanted: lines(worker, "speak", r.id) == w, 60, lambda: worker.output)
    assert worker.stop() == 0
