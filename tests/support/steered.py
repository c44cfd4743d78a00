"""The sample application with tasks that run until they are let go: `-A support.steered`, configured as `proj` is."""

from __future__ import annotations

import asyncio
import os
import time

from support.proj import app, note

#: So short that an exception from outside is noticed soon wherever a pool raises it.
STEP = 0.01


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
