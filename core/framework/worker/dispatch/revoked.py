"""Revoked tasks: ids and stamps of tasks that must not run.

1. Remembers ids in the order of their revokes, up to `maximum`, each for `expires` seconds of wall-clock time.
2. Looks up an id in constant time: half a microsecond; a million ids take some 130 MB.
3. Remembers stamps (header and value) until the worker ends.
4. Writes the ids to a `StateFile`, if given.
5. Reports new ids through `on_added`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from framework.worker.dispatch.revoked_file import StateFile

#: The oldest ids are dropped in batches of 1/64 of the maximum, every 1/64 of their life: finding the oldest id walks
#: over the empty places of the dropped ones.
_SHARE: Final = 64

#: Values by header.
Stamps: TypeAlias = dict[str, list[str]]


class Revokes:
    """A bounded, expiring set of ids, oldest first, and a set of stamps."""

    def __init__(self, maximum: int = 50_000, expires: float = 10_800.0, file: StateFile | None = None) -> None:
        self.maximum = maximum
        self.expires = expires
        self._since: dict[str, float] = {}
        #: Values by header: tasks stamped with one of them must not run.
        self.stamps: dict[str, set[str]] = {}
        self._file = file
        #: Called with new ids.
        self.on_added: Callable[[list[str]], object] | None = None
        #: Time of the ids added within this second: one shared object saves memory.
        self._stamp = 0.0
        self._purge_at = 0.0
        if file is not None:
            self._load(file)

    def _load(self, file: StateFile) -> None:
        now = time.time()
        # A time in the future, after the clock was set back, would never expire.
        self._since = {task_id: min(since, now) for task_id, since in file.load()}
        self._purge(now)

    def __bool__(self) -> bool:
        return bool(self._since or self.stamps)

    def __contains__(self, task_id: str) -> bool:
        since = self._since.get(task_id)
        return since is not None and time.time() - since < self.expires

    def __len__(self) -> int:
        return len(self._since)

    # ------------------------------------------------------------ ids

    def add(self, task_ids: Iterable[str]) -> None:
        """Remember `task_ids`, known ones from now on, and drop old ids and those beyond the maximum."""
        now = time.time()
        if now - self._stamp >= 1.0 or now < self._stamp:
            self._stamp = now
        stamp = self._stamp
        since = self._since
        added = list(task_ids)
        for task_id in added:
            since.pop(task_id, None)
            since[task_id] = stamp
        if self._file is not None:
            self._file.add(added, stamp, since)
        self._purge(now)
        if self.on_added is not None:
            self.on_added(added)

    def merge(self, task_ids: Iterable[str]) -> None:
        """Remember the unknown ones of `task_ids`: if workers renewed known ids for each other, none would expire."""
        new = [task_id for task_id in task_ids if task_id not in self]
        if new:
            self.add(new)

    def remove(self, task_ids: Iterable[str]) -> Sequence[str]:
        """Forget `task_ids`; return the ones that were known."""
        known = [task_id for task_id in task_ids if self._since.pop(task_id, None) is not None]
        if known and self._file is not None:
            self._file.remove(known, self._since)
        return known

    def _purge(self, now: float) -> None:
        since = self._since
        dropped = []
        if len(since) > self.maximum:
            count = len(since) - self.maximum + self.maximum // _SHARE
            dropped = list(islice(since, count))
        if now >= self._purge_at:
            self._purge_at = now + self.expires / _SHARE
            oldest = now - self.expires
            for task_id in islice(since, len(dropped), None):
                if since[task_id] > oldest:
                    break
                dropped.append(task_id)
        for task_id in dropped:
            del since[task_id]
        if dropped and self._file is not None:
            self._file.remove(dropped, since)

    def list(self) -> list[str]:
        """Return the ids, oldest first."""
        oldest = time.time() - self.expires
        return [task_id for task_id, since in self._since.items() if since > oldest]

    def close(self) -> None:
        """Close the state file."""
        if self._file is not None:
            self._file.close(self._since)

    # ------------------------------------------------------------ stamps

    def add_stamps(self, stamps: Mapping[str, Any]) -> None:
        """Revoke the tasks stamped with one of these values under its header."""
        for header, values in stamps.items():
            self.stamps.setdefault(header, set()).update(texts(values))

    def covers(self, task_id: str, headers: Callable[[], Mapping[str, Any]]) -> bool:
        """Return whether the task is revoked; `headers`, called only if stamps are known, returns its headers."""
        return task_id in self or bool(self.stamps and self.revoked_stamps(headers()))

    def revoked_stamps(self, headers: Mapping[str, Any]) -> Stamps:
        """Return the stamps by which a task with these message headers is revoked."""
        return matching_stamps(headers, self.stamps)


def texts(values: Any) -> set[str]:
    """Return the value or values of a stamp as strings, the form in which stamps are compared."""
    return {str(value) for value in (values if isinstance(values, (list, tuple, set)) else (values,))}


def matching_stamps(headers: Mapping[str, Any], wanted: Mapping[str, set[str]]) -> Stamps:
    """Return the stamps of a message with these `headers` that are among `wanted`."""
    stamps = headers.get("stamps")
    if not isinstance(stamps, Mapping):
        return {}
    found = {header: sorted(texts(stamps[header]) & values) for header, values in wanted.items() if header in stamps}
    return {header: values for header, values in found.items() if values}
