"""The command line: one module a sub-command; what is not asked for is not imported."""

from __future__ import annotations

import sys
from typing import NoReturn

from framework._cli.program import run


def main() -> NoReturn:
    """Run the command line of this process, and exit."""
    sys.exit(run())
