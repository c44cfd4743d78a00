"""The sample application with tasks that are steered from outside: `-A support.steered`, configured as `proj` is."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from framework.exceptions import SoftTimeLimitExceeded
from support.proj import app, note

#: So short that an exception from outside is noticed soon wherever a pool raises it.
STEP = 0.01


def nap(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(STEP)


@app.task(name="steered.hold")
def hold(gate, entry):
    """Run until the file `gate` exists."""
    note(f"start:{entry}")
    while not os.path.exists(gate):
        time.sleep(STEP)
    note(f"end:{entry}")
    return os.getpid()


@app.task(name="steered.ahold")
async def ahold(gate, entry):
    note(f"start:{entry}")
    while not os.path.exists(gate):
        await asyncio.sleep(STEP)
    note(f"end:{entry}")
    return os.getpid()


@app.task(name="steered.hold_late", acks_late=True)
def hold_late(gate, entry):
    return hold.run(gate, entry)


@app.task(name="steered.trap", acks_late=True)
def trap(entry, *signums):
    """Tell which signal ends this process."""

    def tell(signum, _frame):
        note(f"{entry}:{signal.Signals(signum).name}")
        os._exit(1)

    for signum in signums:
        signal.signal(signum, tell)
    note(f"start:{entry}")
    nap(60)


@app.task(name="steered.long")
def long(entry):
    note(f"start:{entry}")
    nap(60)


@app.task(name="steered.hasty", soft_time_limit=0.3, time_limit=30)
def hasty():
    """Has limits of its own."""
    nap(60)


@app.task(name="steered.clean")
def clean(seconds=60):
    """Clean up at the soft limit."""
    try:
        nap(seconds)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "in time"


@app.task(name="steered.deaf")
def deaf(entry):
    """Hear the soft limit and go on."""
    try:
        nap(60)
    except SoftTimeLimitExceeded:
        note(f"soft:{entry}")
        nap(60)


@app.task(name="steered.bare")
def bare(gate, entry):
    """Catch everything, and go on until the file `gate` exists."""
    note(f"start:{entry}")
    while not os.path.exists(gate):
        try:
            nap(STEP)
        except:  # noqa: E722 - what a hard limit must be stronger than
            continue


@app.task(name="steered.late_long", acks_late=True, acks_on_timeout=False, max_deliveries=2)
def late_long(entry):
    note(entry)
    nap(60)


@app.task(name="steered.late_acked", acks_late=True, acks_on_timeout=True)
def late_acked(entry):
    note(entry)
    nap(60)


@app.task(name="steered.gives_up")
def gives_up(library):
    """Let a time-out of a green library out."""
    if library == "gevent":
        import gevent

        raise gevent.Timeout(3)
    from eventlet.timeout import Timeout

    raise Timeout(3)
