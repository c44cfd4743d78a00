"""The books of a run under faults: what was sent, what the ledger says, and whether the faults explain the difference.

1. `keep` puts every task under one heading of `Accounts`.
2. Late ack: it ran to its end, or lies among the dead letters after `max_deliveries`. It may have begun again.
3. Early ack: it ran once. Only what was running when a process was killed may be missing; only what began while its
   acknowledgement could not be sent may have begun twice.
4. Without faults everything ran exactly once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

#: Seconds. A busy machine is late, and a retry waits for a broker that is away.
SLACK: Final = 8.0
#: Headings under which nothing may stand.
WRONG: Final = ("lost", "duplicated", "unexpected")
HEADINGS: Final = ("ok", "recovered", "excused", "buried", "unsent", "left", *WRONG)


class Sent(NamedTuple):
    """One task that was sent."""

    entry: str
    late: bool
    #: How long it sleeps, and how often it retries.
    seconds: float
    fails: int
    #: Its outcome is stored.
    keeps_result: bool = False
    #: False: the broker went away while it was being sent, so it may or may not have it.
    certain: bool = True


class Fault(NamedTuple):
    """Something that went wrong, from `begin` to `end` (monotonic seconds)."""

    what: str
    begin: float
    end: float
    #: What it killed: process ids, or workers (`ControlConnection.worker`) with all their processes.
    killed: frozenset[str] = frozenset()


class Line(NamedTuple):
    """One line of the ledger."""

    what: str
    entry: str
    attempt: int
    when: float
    #: Where it was written: the worker, with the number of its start, and the process id.
    worker: str = ""
    pid: str = ""


class Accounts(NamedTuple):
    """Entries under headings."""

    ok: list[str]
    #: Late ack: began more than once, and ended. Early ack: began twice, a fault having swallowed the acknowledgement.
    recovered: list[str]
    #: Early ack: running when its process was killed.
    excused: list[str]
    #: Among the dead letters, having been handed out too often.
    buried: list[str]
    #: The broker never had it, as the sender was warned.
    unsent: list[str]
    #: In its queue still: the run was over too early. `Run` complains of it.
    left: list[str]
    lost: list[str]
    duplicated: list[str]
    unexpected: list[str]

    @property
    def balanced(self) -> bool:
        """Nothing is wrong."""
        return not any(getattr(self, heading) for heading in WRONG)

    def __str__(self) -> str:
        parts = [f"{len(self.ok)} ok"]
        for heading in HEADINGS[1:]:
            if entries := getattr(self, heading):
                parts.append(f"{len(entries)} {heading} ({', '.join(entries[:5])}{', …' if len(entries) > 5 else ''})")
        return ", ".join(parts)


def read(lines: Iterable[str]) -> list[Line]:
    """Read ledger lines as `work` writes them; what is none stands there under its own text."""
    found = []
    for text in lines:
        try:
            what, entry, attempt, when, worker, pid = text.split()
            found.append(Line(what, entry, int(attempt), float(when), worker, pid))
        except ValueError:
            found.append(Line("?", text, 0, 0.0))
    return found


def keep(
    sent: Sequence[Sent],
    lines: Iterable[Line],
    faults: Sequence[Fault] = (),
    *,
    max_deliveries: int = 1,
    letters: Iterable[str] = (),
    left: Iterable[str] = (),
) -> Accounts:
    """Return the books. `letters`: entries that are in the dead-letter queue for having been handed out too often.

    `left`: entries that are in the tasks' queue.
    """
    return _Clerk(faults, max_deliveries, set(letters), set(left)).keep(sent, lines)


class _Clerk:
    def __init__(self, faults: Sequence[Fault], max_deliveries: int, letters: set[str], left: set[str]) -> None:
        self._faults = faults
        self._max_deliveries = max_deliveries
        self._letters = letters
        self._left = left
        #: Tasks that may have been killed in the moment between their beginning and their first line: one a kill.
        self._silent = sum(1 for fault in faults if fault.killed)

    def keep(self, sent: Sequence[Sent], lines: Iterable[Line]) -> Accounts:
        known = {task.entry: task for task in sent}
        accounts = Accounts(*([] for _ in HEADINGS))
        by_entry: defaultdict[str, list[Line]] = defaultdict(list)
        for line in lines:
            task = known.get(line.entry)
            if task is None or line.attempt > task.fails:
                accounts.unexpected.append(line.entry)
            else:
                by_entry[line.entry].append(line)
        for task in sent:
            getattr(accounts, self._heading(task, by_entry[task.entry])).append(task.entry)
        return accounts

    def _heading(self, task: Sent, lines: list[Line]) -> str:
        starts = Counter(line.attempt for line in lines if line.what == "start")
        ends = Counter(line.attempt for line in lines if line.what == "end")
        once = dict.fromkeys(range(task.fails + 1), 1)
        if not ends[task.fails]:
            return self._missing(task, lines)
        if starts == ends == once:
            return "ok"
        if any(not starts[attempt] for attempt in once):
            return "unexpected"  # an attempt that was never made has a successor
        good = self._may_repeat(starts, ends) if task.late else self._repeats_are_explained(task, lines)
        return "recovered" if self._faults and good else "duplicated"

    # ------------------------------------------------------------ what did not end

    def _missing(self, task: Sent, lines: list[Line]) -> str:
        if task.entry in self._left:
            return "left"
        if not lines and not task.certain:
            return "unsent"
        if task.late:
            return "buried" if task.entry in self._letters else "lost"
        if lines and self._was_killed(task, lines):
            return "excused"
        if any(line.what == "start" and not _ended(line, lines) for line in lines):
            return "lost"
        self._silent -= 1
        return "excused" if self._silent >= 0 else "lost"

    def _was_killed(self, task: Sent, lines: list[Line]) -> bool:
        """Say whether its process was killed while the last attempt ran, or before it had handed on to the next."""
        last = max(lines, key=lambda line: line.when)
        ended = last.when + (task.seconds if last.what == "start" else 0)
        return any(
            fault.begin <= ended + SLACK and fault.end >= last.when
            for fault in self._faults
            if last.worker in fault.killed or last.pid in fault.killed
        )

    # ------------------------------------------------------------ what began more than once

    def _may_repeat(self, starts: Counter[int], ends: Counter[int]) -> bool:
        copies = 1
        for attempt in sorted(starts):
            if starts[attempt] > self._max_deliveries * copies:
                return False
            # Each run that ended may have sent the next attempt; twice, where the broker's word did not reach it.
            copies = max(1, 2 * ends[attempt])
        return True

    def _repeats_are_explained(self, task: Sent, lines: list[Line]) -> bool:
        """Say whether a fault came before each repeated beginning could be acknowledged, or the attempt before it."""
        for attempt in range(task.fails + 1):
            starts = sorted(line.when for line in lines if line.what == "start" and line.attempt == attempt)
            if len(starts) < 2:
                continue
            before = [line.when for line in lines if line.attempt == attempt - 1]
            first = min([starts[0], *before])
            for again in starts[1:]:
                last = min(again, starts[0] + task.seconds + SLACK)
                if not any(fault.begin <= last and fault.end >= first - SLACK for fault in self._faults):
                    return False
        return True


def _ended(start: Line, lines: Iterable[Line]) -> bool:
    return any(line.what == "end" and line.attempt == start.attempt for line in lines)
