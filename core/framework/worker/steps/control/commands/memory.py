"""Commands that help to find leaks: the main process's memory use and object references."""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from framework.api.command import inspect_command
from framework.exceptions import FrameworkError

if TYPE_CHECKING:
    from framework.worker.control import ControlState

#: Samples that are kept; `memdump` shows some of them.
_KEPT: Final = 1000
_MB: Final = 1024 * 1024
#: The most objects and levels that `objgraph` follows: it blocks the loop meanwhile.
_OBJECTS_MAX: Final = 1000
_DEPTH_MAX: Final = 50

_samples: deque[int] = deque(maxlen=_KEPT)


@inspect_command()
def memsample(state: ControlState) -> str:
    """Sample the resident memory (RSS) of the main process."""
    _samples.append(_rss())
    return _format(_samples[-1])


@inspect_command()
def memdump(state: ControlState, samples: int = 10) -> str:
    """Show samples of memsample, evenly spread, and the current memory."""
    taken = list(_samples)
    wanted = max(1, min(samples, len(taken) or 1))
    picked = [taken[index * len(taken) // wanted] for index in range(wanted)] if taken else []
    lines = [f"- rss (sample): {_format(size)}" for size in picked]
    return "\n".join([*lines, f"- rss (end): {_format(_rss())}."]) + "\n"


@inspect_command()
def objgraph(
    state: ControlState,
    num: int = 200,
    max_depth: int = 10,
    type: str = "Request",  # noqa: A002 - its name on the wire
) -> dict[str, Any]:
    """Draw the references to objects of a type into a file on the worker's machine; needs the package objgraph."""
    if not (0 < num <= _OBJECTS_MAX and 0 < max_depth <= _DEPTH_MAX):
        raise FrameworkError(
            f"num is {num}, wanted 1 to {_OBJECTS_MAX}; max_depth is {max_depth}, wanted 1 to {_DEPTH_MAX}"
        )
    try:
        import objgraph as library  # an optional library
    except ImportError:
        raise FrameworkError("objgraph is not installed where the worker runs: pip install objgraph") from None
    found = library.by_type(type)[:num]
    if not found:
        raise FrameworkError(f"the main process has no object of type {type!r}")
    # An image if graphviz is installed, else the source of the graph.
    kind = "png" if shutil.which("dot") else "dot"
    target = Path(tempfile.mkdtemp(prefix="framework-objgraph-")) / f"objects.{kind}"
    library.show_backrefs(found, max_depth=max_depth, highlight=lambda value: value in found, filename=str(target))
    return {"filename": str(target)}


def _rss() -> int:
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        # Without /proc: the peak, because the standard library has no current value.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _format(size: int) -> str:
    return f"{size / _MB:.2f}MB"
