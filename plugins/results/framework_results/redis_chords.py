"""Chords and saved groups in Redis, with the keys, counter and claim of Celery 5.7, so that both can share a chord.

The keys of a chord are ``celery-taskset-meta-<group id>`` with a suffix: ``.s`` the number of parts, ``.t`` the number
of added parts, ``.j`` the parts, ``.d`` the tasks that have returned parts, ``.c`` the claim: the token of the caller
that sends the body, then ``done``.

Source: section 6 of the wire protocol.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Final

from framework.api.result_store import ChordPart, ResultStore, Turn
from framework_drivers.redis.resp import Script, ScriptCall

_PREFIX: Final = "celery-taskset-meta-"

_BEGIN: Final = Script("""
-- KEYS: size, claim. ARGV: number of parts, lifetime in seconds (0: no limit).
redis.call('DEL', KEYS[2])
if tonumber(ARGV[2]) > 0 then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
else
  redis.call('SET', KEYS[1], ARGV[1])
end
""")

_RETURN: Final = Script("""
-- Keeps a part. KEYS: parts, more, size, whose, claim, group.
-- ARGV: task id, score, value, 1 for a sorted set and 0 for a list, lifetimes of chord and group (0: no limit),
-- token, lifetime of the claim.
-- Returns 0: other parts are missing; 1: the caller's turn; 2: another caller's turn; 3: no such chord.
local parts, more, size, whose, claim, group = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local holder = redis.call('GET', claim)
if holder == 'done' then
  return 3
end
local ordered = ARGV[4] == '1'
-- A task that ran twice counts once, for each score: one task may occur twice in a header.
if redis.call('SADD', whose, ARGV[1] .. ':' .. ARGV[2]) == 1 then
  if ordered then
    redis.call('ZADD', parts, ARGV[2], ARGV[3])
  else
    redis.call('RPUSH', parts, ARGV[3])
  end
end
if tonumber(ARGV[5]) > 0 then
  for _, key in ipairs({parts, more, size, whose}) do
    redis.call('EXPIRE', key, ARGV[5])
  end
  if tonumber(ARGV[6]) > 0 then
    redis.call('EXPIRE', group, ARGV[6])
  end
end
local wanted = redis.call('GET', size)
if not wanted then
  return 3
end
local kept = redis.call(ordered and 'ZCARD' or 'LLEN', parts)
if kept ~= tonumber(wanted) + tonumber(redis.call('GET', more) or 0) then
  return 0
end
if holder == ARGV[7] then
  redis.call('EXPIRE', claim, ARGV[8])
  return 1
end
if holder then
  return 2
end
redis.call('SET', claim, ARGV[7], 'EX', ARGV[8])
return 1
""")

_HOLD: Final = Script("""
-- KEYS: claim, size. ARGV: token, lifetime. Renews an expired claim, too, while the chord exists.
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] or (not holder and redis.call('EXISTS', KEYS[2]) == 1) then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
  return 1
end
return 0
""")

_END: Final = Script("""
-- KEYS: claim, then all other keys. ARGV: token, lifetime of the `done` mark.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('DEL', unpack(KEYS, 2))
redis.call('SET', KEYS[1], 'done', 'EX', ARGV[2])
return 1
""")

_TURNS: Final = (Turn.WAIT, Turn.MINE, Turn.TAKEN, Turn.OVER)


class RedisChords(ResultStore):
    """Base of `RedisStore` for chords and saved groups."""

    _group_prefix: str
    _ordered: bool
    _tagged: bool
    _chord_expires: int
    _expires: int

    @abstractmethod
    def _run(self, commands: Sequence[Any]) -> list[Any]: ...

    @abstractmethod
    def _keep(self, keys: Sequence[str], args: Sequence[bytes | int]) -> None:
        """Keep and publish documents; `args` are each document and its lifetime in seconds (0: no limit)."""

    def _begin_chords(self, prefix: str, ordered: bool, *, tagged: bool) -> None:
        """`tagged`: use the group id as hash tag, so that a chord's keys share a cluster slot."""
        self._tagged = tagged
        self._group_prefix = prefix + _PREFIX
        self._ordered = ordered
        self._chord_expires = int(self.context.chord_lifetime)

    def _keys(self, group_id: str, suffixes: str) -> list[str]:
        key = self._group_key(group_id)
        return [f"{key}.{suffix}" for suffix in suffixes]

    def _group_key(self, group_id: str) -> str:
        return f"{self._group_prefix}{{{group_id}}}" if self._tagged else self._group_prefix + group_id

    def begin_chord(self, group_id: str, size: int) -> None:
        """Expect `size` parts."""
        self._run([ScriptCall(_BEGIN, self._keys(group_id, "sc"), (size, self._chord_expires))])

    def grow_chord(self, group_id: str, count: int = 1) -> None:
        """Expect `count` parts more."""
        (more,) = self._keys(group_id, "t")
        commands: list[tuple[str, ...]] = [("INCRBY", more, str(count))]
        if self._chord_expires:
            commands.append(("EXPIRE", more, str(self._chord_expires)))
        self._run(commands)

    def return_part(self, part: ChordPart, token: str, claim: float) -> Turn:
        """Keep `part`, and return the turn."""
        both = (self._chord_expires, self._expires)
        (turn,) = self._run(
            [
                ScriptCall(
                    _RETURN,
                    [*self._keys(part.group_id, "jtsdc"), self._group_key(part.group_id)],
                    (
                        part.task_id,
                        "+inf" if part.index is None else f"{part.index:.17g}",
                        part.value,
                        int(self._ordered),
                        self._chord_expires,
                        max(both) if all(both) else 0,
                        token,
                        max(1, int(claim)),
                    ),
                )
            ]
        )
        return _TURNS[turn]

    def chord_parts(self, group_id: str) -> list[bytes]:
        """Return the parts, in the order of the header."""
        (parts,) = self._keys(group_id, "j")
        (found,) = self._run([("ZRANGE" if self._ordered else "LRANGE", parts, "0", "-1")])
        return list(found)

    def hold_turn(self, group_id: str, token: str, claim: float) -> bool:
        """Extend the turn; return whether the caller holds it."""
        return bool(self._run([ScriptCall(_HOLD, self._keys(group_id, "cs"), (token, max(1, int(claim))))])[0])

    def end_chord(self, group_id: str, token: str, remember: float) -> bool:
        """Drop the chord; return False if the caller does not hold the turn."""
        return bool(self._run([ScriptCall(_END, self._keys(group_id, "cjtsd"), (token, max(1, int(remember))))])[0])

    def fail_chord(self, group_id: str) -> None:
        """End the chord: without a size, later parts are ignored."""
        self._run([("DEL", *self._keys(group_id, "s"))])

    def save_group(self, group_id: str, document: bytes) -> None:
        """Keep and publish the group's document, as long as results are kept."""
        self._keep([self._group_key(group_id)], [document, self._expires])

    def fetch_group(self, group_id: str) -> bytes | None:
        """Return the group's document."""
        (document,) = self._run([("GET", self._group_key(group_id))])
        return None if document is None else bytes(document)

    def forget_group(self, group_id: str) -> None:
        """Drop the group's document."""
        self._run([("DEL", self._group_key(group_id))])
