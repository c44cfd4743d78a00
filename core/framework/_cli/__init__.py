"""The command line: one module for each sub-command, imported when it is used."""

from __future__ import annotations

import sys
from typing import NoReturn

from framework._cli.program import run


def main() -> NoReturn:
    """Run the command line of this process and exit with its exit code."""
    sys.exit(run())
