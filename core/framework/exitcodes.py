"""Exit codes of the `framework` commands; the numbers follow BSD's `sysexits.h`."""

from __future__ import annotations

from typing import Final

#: The command succeeded; a worker stopped warmly on TERM or a remote shutdown.
OK: Final = 0
#: Ctrl-C stopped the worker, warmly or (the second time) coldly; Celery's exit code.
INTERRUPTED: Final = 1
#: The command line is wrong: unknown option, missing argument.
USAGE: Final = 2
#: A worker replied with an error and did not run the command.
REFUSED: Final = 65
#: The broker or the result store cannot be reached.
UNREACHABLE: Final = 68
#: No worker replied in time, or a worker reported that it is not live.
UNAVAILABLE: Final = 69
#: A defect of the framework or of a plugin; its traceback is printed.
SOFTWARE: Final = 70
#: A file cannot be written, or a port or pidfile is in use.
CANT_CREATE: Final = 73
#: Some of the known workers did not reply, or a worker is live but not ready.
INCOMPLETE: Final = 75
#: The configuration, the application or the choice of plugins is wrong; respawning will not help.
CONFIG: Final = 78
