"""Asking workers: sends one request to the control exchange and collects what comes back.

1. The reply queue is reached by its name alone, through the anonymous exchange: when a client is killed, no binding of
   its stays behind, and the queue and what is in it expire.
2. The wait ends when everybody who can answer has: as many replies as asked for; or one from each listener that the
   broker counted; or one from each worker on the roster that workers send along. Else no reply for `timeout` seconds
   ends it.
3. `Replies.missing` names the workers that are known to be there and have not answered.
4. `matches` says which workers a request's pattern means: what the worker decides for itself, and the client for its
   roster. What comes from outside is bounded: a pattern is a glob, or a regular expression that cannot take long.
5. Every request has a ticket, and replies to other tickets are dropped: a late one never shows up in the next call.

Source: the request and reply shapes of kombu's pidbox. The roster is an addition: a key in the request and a header of
the reply that others ignore.
"""

from __future__ import annotations

import fnmatch
import re
import select
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from framework.api.transport import Exchange, Mailbox, Queue
from framework.exceptions import MessageError
from framework.message import Outgoing, read
from framework.wire.serialization import decode_message, encode

#: Seconds since a worker was last heard of, after which nobody waits for it any more.
_FRESH: Final = 7.0
#: The reply's header with the workers that its sender has heard of lately: seconds since then, by node name.
ROSTER: Final = "roster"


class Replies(list[dict[str, Any]]):
    """One ``{node: reply}`` for each worker that answered, and who did not."""

    def __init__(self, replies: Iterable[dict[str, Any]] = ()) -> None:
        super().__init__(replies)
        #: Workers that were asked and have not answered: seconds since they were last heard of, None: not known.
        self.missing: dict[str, float | None] = {}
        #: Listeners that have not answered, where the broker counts them; those in `missing` are among them.
        self.silent = 0

    @property
    def nodes(self) -> set[str]:
        """The names of those that answered."""
        return {node for reply in self for node in reply}


class Broadcast:
    """One request and the collection of its replies. Used once."""

    def __init__(
        self,
        command: str,
        arguments: dict[str, Any],
        *,
        exchange: str,
        destination: Sequence[str] | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        self._exchange = exchange
        self._destination = list(destination) if destination else None
        self._to_some = bool(pattern and matcher)
        self._body: dict[str, Any] = {
            "method": command,
            "arguments": arguments,
            "destination": self._destination,
            "pattern": pattern,
            "matcher": matcher,
        }
        self._ticket = str(uuid.uuid4())
        self._replies = Replies()
        self._roster: dict[str, float] | None = None
        self._listeners: int | None = None

    def send(self, mailbox: Mailbox) -> None:
        """Send, and want no replies."""
        mailbox.send([self._message(0.0)])

    def ask(
        self,
        mailbox: Mailbox,
        *,
        timeout: float,
        limit: int | None,
        accept: Sequence[str],
        control: Any,
        callback: Callable[[dict[str, Any]], object] | None = None,
    ) -> Replies:
        """Send, and return the replies; `control` is the ``[control]`` table of the settings."""
        queue = _reply_queue(self._exchange, control)
        mailbox.subscribe(queue)
        self._body |= {"ticket": self._ticket, "reply_to": {"exchange": "", "routing_key": queue.name}, ROSTER: True}
        if limit is None and self._destination:
            limit = len(self._destination)
        self._listeners = mailbox.reach([self._message(time.time() + timeout)])
        deadline = time.monotonic() + timeout
        while not self._complete(limit):
            arrived = False
            for _exchange, payload in mailbox.receive():
                if not self._take(payload, accept):
                    continue
                arrived = True
                if callback is not None:
                    callback(self._replies[-1])
                if self._complete(limit):
                    break
            if arrived:
                deadline = time.monotonic() + timeout
            elif (left := deadline - time.monotonic()) > 0:
                select.select([mailbox.fileno()], [], [], left)
            else:
                break
        self._name_missing(limit)
        return self._replies

    def _take(self, payload: Any, accept: Sequence[str]) -> bool:
        try:
            incoming = read(payload)
            if incoming.headers.get("ticket") != self._ticket:
                return False
            body = decode_message(incoming, accept=accept)
        except MessageError:
            return False  # not ours, or nonsense: either way no reply
        if not isinstance(body, dict):
            return False
        self._replies.append(body)
        roster = incoming.headers.get(ROSTER)
        if isinstance(roster, dict):
            self._roster = {**(self._roster or {}), **{str(node): float(age) for node, age in roster.items()}}
        return True

    def _complete(self, limit: int | None) -> bool:
        count = len(self._replies)
        if limit is not None and count >= limit:
            return True
        if self._listeners is not None and count >= self._listeners:
            return True
        if self._roster is None or self._destination or (self._listeners is not None and not self._to_some):
            # Nothing known; or asked by name, and waited for by name; or the broker's count is the better one.
            return False
        fresh = {node for node in self._expected() if self._roster[node] <= _FRESH}
        return fresh <= self._replies.nodes

    def _expected(self) -> set[str]:
        if self._destination:
            return set(self._destination)
        roster = set(self._roster or ())
        if self._to_some:
            return {node for node in roster if matches(node, self._body["pattern"], self._body["matcher"])}
        return roster

    def _name_missing(self, limit: int | None) -> None:
        replies = self._replies
        if limit is not None and len(replies) >= limit:
            return
        roster = self._roster or {}
        replies.missing = {node: roster.get(node) for node in sorted(self._expected() - replies.nodes)}
        if self._listeners is not None and not self._destination and not self._to_some:
            replies.silent = max(0, self._listeners - len(replies))

    def _message(self, expires: float) -> Outgoing:
        content_type, content_encoding, encoded, _mime = encode(self._body)
        return Outgoing(
            body=encoded,
            headers={"clock": 0, "expires": expires},
            exchange=self._exchange,
            exchange_type="fanout",
            content_type=content_type,
            content_encoding=content_encoding,
            delivery_mode=1,
        )


def _reply_queue(exchange: str, control: Any) -> Queue:
    return Queue(
        name=f"{uuid.uuid4()}.reply.{exchange}",
        exchange=Exchange(name="", type="direct"),
        durable=False,
        exclusive=True,
        auto_delete=True,
        expires=control.queue_expires,
        message_ttl=control.queue_ttl,
        no_ack=True,
    )


# ---------------------------------------------------------------- which workers a pattern means

#: More is refused, for a hostile expression must not stall the loop. Backtracking is exponential in repeated groups and
#: in the number of repetitions: a few of them, one after another, are harmless.
_PATTERN_MAX: Final = 128
_REPETITIONS_MAX: Final = 4
_REPETITION: Final = re.compile(r"[*+{]|(?<!\()\?")
_REPEATED_AGAIN: Final = re.compile(r"[)*+}][*+{]")


def matches(node: str, pattern: str, matcher: str) -> bool:
    """Say whether `pattern` means `node`; `matcher` is ``glob``, anything else means a regular expression.

    Raises `MessageError` for an expression that is none, or might take long.
    """
    if matcher == "glob":
        return fnmatch.fnmatchcase(node, pattern)
    if not _harmless(pattern):
        raise MessageError(
            f"the pattern is longer than {_PATTERN_MAX} characters, repeats a group or has more than "
            f"{_REPETITIONS_MAX} repetitions"
        )
    try:
        return re.match(pattern, node) is not None
    except re.error as error:
        raise MessageError(f"the pattern is no regular expression: {error}") from None


def _harmless(pattern: str) -> bool:
    """Return whether matching `pattern` against a host name takes no time worth mentioning."""
    return (
        len(pattern) <= _PATTERN_MAX
        and len(_REPETITION.findall(pattern)) <= _REPETITIONS_MAX
        and not _REPEATED_AGAIN.search(pattern)
    )
