"""The command line: one module a sub-command; what is not asked for is not imported."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process, and exit."""
    import sys

    from framework._cli.program import run

    sys.exit(run())
