"""What a worker must not say, whatever is done to it: its user would be alarmed, and no fault of ours is a reason."""

from __future__ import annotations

import re
from typing import Final

#: Lines around the first of a traceback that are shown.
_BEFORE: Final = 2
_AFTER: Final = 20
_ALARMING: Final = re.compile(
    r"^Traceback \(most recent call last\)|: CRITICAL/|Defect in |Exception ignored|Exception in thread|"
    r"was never (?:awaited|retrieved)|(?:Resource|Runtime|Deprecation)Warning|Fatal Python error|"
    r"unregistered task|(?:Task|Message|result) .* is lost,|results are lost|raised unexpected|"
    r"cannot become a task|headers that cannot be read|"
    r"A control request cannot be|is not a result|without a correlation id|is damaged|is abandoned"
)


def alarms(log: str) -> list[str]:
    """Return what is alarming in a log, each with the lines around it."""
    lines = log.splitlines()
    found = []
    last = -1
    for number, line in enumerate(lines):
        if number > last and _ALARMING.search(line):
            last = number + _AFTER
            found.append("\n".join(lines[max(0, number - _BEFORE) : last]))
    return found
