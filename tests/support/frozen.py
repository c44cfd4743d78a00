"""The sample application with ways to freeze a worker: `-A support.frozen`, configured as `proj` is."""

from __future__ import annotations

import ctypes
import os

from framework.worker.control import control_command
from support.proj import app, note

__all__ = ["app"]

_libc = ctypes.CDLL(None)


def _freeze(gate: str) -> None:
    # Not time.sleep: under a green pool that would let the others run.
    while not os.path.exists(gate):
        _libc.usleep(10_000)


@control_command()
def freeze(state, gate):
    """Keep the loop from turning until the file `gate` exists."""
    _freeze(gate)


@app.task(name="frozen.hog", ignore_result=True)
def hog(gate, entry):
    """Keep the thread that this runs in from doing anything else until the file `gate` exists."""
    note(f"start:{entry}")
    _freeze(gate)
