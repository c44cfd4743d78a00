"""Exit codes of every `framework` command, named (the numbers follow BSD's `sysexits.h`)."""

from __future__ import annotations

from typing import Final

#: The command did what was asked; a worker stopped warmly on TERM or a remote shutdown.
OK: Final = 0
#: The worker was stopped by Ctrl-C, warmly or (second time) coldly, as Celery's does.
INTERRUPTED: Final = 1
#: The command line itself is wrong: unknown option, missing argument.
USAGE: Final = 2
#: A worker answered with an error: it did not do what was asked.
REFUSED: Final = 65
#: The broker or the result store cannot be reached.
UNREACHABLE: Final = 68
#: Nobody answered: no worker, or not in time; or a worker said that it is not live.
UNAVAILABLE: Final = 69
#: A defect of ours, or of a plugin: the traceback goes with it.
SOFTWARE: Final = 70
#: A file cannot be written, a port or pidfile is taken.
CANT_CREATE: Final = 73
#: Some workers answered, and some that are known to be there did not; or a worker lives, and is not ready.
INCOMPLETE: Final = 75
#: The configuration, the application or the choice of plugins is wrong; respawning will not help.
CONFIG: Final = 78
