"""The sample application with tasks that meet a limit, each in its way: `-A support.bounded`, in `proj`'s environment.

Each writes ``start:<entry>`` when it begins. What sleeps does so in small steps: an exception reaches a thread only
between two.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
import time

from framework.exceptions import SoftTimeLimitExceeded
from support.proj import app, make_app, note

__all__ = ["app", "make_app"]

STEP = 0.01


def rest(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(STEP)


@app.task(name="bounded.wait")
def wait(seconds, entry):
    note(f"start:{entry}")
    rest(seconds)
    return seconds


@app.task(name="bounded.wait_late", acks_late=True)
def wait_late(seconds, entry):
    return wait(seconds, entry)


@app.task(name="bounded.wait_requeued", acks_late=True, acks_on_timeout=False, max_deliveries=2)
def wait_requeued(seconds, entry):
    return wait(seconds, entry)


@app.task(name="bounded.gate")
def gate(path, entry):
    note(f"start:{entry}")
    while not os.path.exists(path):
        time.sleep(STEP)
    return os.getpid()


@app.task(name="bounded.agate")
async def agate(path, entry):
    note(f"start:{entry}")
    while not os.path.exists(path):
        await asyncio.sleep(STEP)
    return os.getpid()


@app.task(name="bounded.limited", time_limit=0.3)
def limited(seconds, entry):
    return wait(seconds, entry)


@app.task(name="bounded.tidy")
def tidy(seconds, entry):
    try:
        wait(seconds, entry)
    except SoftTimeLimitExceeded:
        return "tidied up"


@app.task(name="bounded.atidy")
async def atidy(seconds, entry):
    note(f"start:{entry}")
    try:
        await asyncio.sleep(seconds)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0)
        return "tidied up"


@app.task(name="bounded.stubborn")
def stubborn(seconds, entry):
    """Go on whatever is raised."""
    note(f"start:{entry}")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            rest(seconds)
        except:  # noqa: E722 - what the test is about
            continue


@app.task(name="bounded.trap")
def trap(entry):
    """Write down the signal that comes, and leave as a well-behaved program does."""

    def leave(number, frame):
        note(f"signal:{signal.Signals(number).name}")
        sys.exit(1)

    signal.signal(signal.SIGTERM, leave)
    note(f"start:{entry}")
    rest(60)


@app.task(name="bounded.times_out")
def times_out(library, entry):
    """Let out a time-out of a green library, which is no `Exception`."""
    with importlib.import_module(library).Timeout(0.05):
        wait(60, entry)
