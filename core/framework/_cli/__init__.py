"""The command line: one module for each sub-command, imported when it is used."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import NoReturn

from framework._cli.program import run


def main() -> NoReturn:
    """Run the command line of this process and exit with its exit code."""
    code = run()
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                # The reader (head, less) is gone, or the disk is full: Python's own flush at exit would fail again and
                # replace the exit code.
                with contextlib.suppress(OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)
