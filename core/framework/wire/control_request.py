"""Control requests: one message to the control exchange, and the replies of the workers.

1. Workers send replies to the reply queue by its name, through the anonymous exchange. A killed client leaves no
   binding behind, and its queue expires with all messages in it.
2. `SentCommand.ask` returns when all expected replies have arrived: `limit` replies; or one from each listener that the
   broker counted; or one from each worker on the roster that workers attach. Otherwise it returns when no reply has
   arrived for `timeout` seconds.
3. `Replies.missing` names the workers that are expected to reply and have not.
4. Each request has a ticket. Replies with another ticket are dropped, so a late one cannot show up in the next call.

Source: the request and reply shapes of kombu's pidbox. The roster is an extension: a key of the request and a header
of the reply, which other implementations ignore.
"""

from __future__ import annotations

import select
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from framework._config.nodename import full_name
from framework.api.transport import Exchange, Mailbox, Queue
from framework.exceptions import MessageError
from framework.message import Outgoing, read
from framework.wire.control_signature import sign
from framework.wire.node_pattern import matches
from framework.wire.serialization import decode_message, encode

#: A worker that has been silent for more seconds than this is not waited for.
_FRESH: Final = 7.0
#: The most seconds since a heartbeat that are taken, as they come from outside.
_AGE_MAX: Final = 1e9
#: The header of a reply that lists other workers: seconds since their last heartbeat, by node name.
ROSTER: Final = "roster"
#: What a worker that has others of its name lists there for itself: clients then wait for them all.
NAMESAKES: Final = -1.0


class Replies(list[dict[str, Any]]):
    """The replies, one ``{node: reply}`` for each worker that answered, and the workers that did not."""

    def __init__(self, replies: Iterable[dict[str, Any]] = ()) -> None:
        super().__init__(replies)
        #: Workers that have not answered, with the seconds since their last heartbeat (None: unknown).
        self.missing: dict[str, float | None] = {}
        #: The number of listeners that have not answered, `missing` included, where the broker counts listeners.
        self.silent = 0

    @property
    def namesakes(self) -> dict[str, int]:
        """How many workers have answered by one name, for the names of more than one."""
        return {node: count for node, count in Counter(node for reply in self for node in reply).items() if count > 1}

    @property
    def nodes(self) -> set[str]:
        """The node names of the workers that answered."""
        return {node for reply in self for node in reply}


class SentCommand:
    """One request and its replies. Used once."""

    def __init__(
        self,
        command: str,
        arguments: dict[str, Any],
        *,
        exchange: str,
        destination: Sequence[str] | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
        secret: str | None = None,
    ) -> None:
        """With `secret` the request is signed."""
        self._exchange = exchange
        self._secret = secret
        self._destination = list(map(full_name, destination)) if destination else None
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
        #: Several workers have one name, so that the roster cannot tell when all have answered.
        self._ambiguous = False
        self._listeners: int | None = None

    def send(self, mailbox: Mailbox) -> None:
        """Send the request without asking for replies."""
        mailbox.send([self._message(0.0)])

    def reach(self, mailbox: Mailbox) -> int | None:
        """Send the request without asking for replies, and return how many listen; None: the broker does not count."""
        return mailbox.reach([self._message(0.0)])

    def ask(
        self,
        mailbox: Mailbox,
        *,
        timeout: float,
        limit: int | None,
        accept: Sequence[str],
        control: Any,
        callback: Callable[[dict[str, Any]], object] | None = None,
        roster: bool = True,
    ) -> Replies:
        """Send the request and return the replies; `control` is the ``[control]`` table of the settings.

        Without `roster`, workers that answer by the same name are all waited for.
        """
        queue = _reply_queue(self._exchange, control)
        mailbox.subscribe(queue)
        self._body |= {"ticket": self._ticket, "reply_to": {"exchange": "", "routing_key": queue.name}, ROSTER: roster}
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
            return False  # unreadable, so not a reply to this request
        if not isinstance(body, dict):
            return False
        self._replies.append(body)
        roster = incoming.headers.get(ROSTER)
        if isinstance(roster, dict):
            ages = {str(node): float(age) for node, age in roster.items() if _is_age(age)}
            self._roster = {**(self._roster or {}), **ages}
            self._ambiguous |= NAMESAKES in roster.values()
        return True

    def _complete(self, limit: int | None) -> bool:
        count = len(self._replies)
        if limit is not None and count >= limit:
            return True
        if self._listeners is not None and count >= self._listeners:
            return True
        if (
            self._roster is None
            or self._ambiguous
            or self._destination
            or (self._listeners is not None and not self._to_some)
        ):
            # The roster is missing, or not needed: destinations set `limit`, and the broker's count is more accurate.
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
        signature = sign(self._secret, self._exchange, encoded) if self._secret else {}
        return Outgoing(
            body=encoded,
            headers={"clock": 0, "expires": expires, **signature},
            exchange=self._exchange,
            exchange_type="fanout",
            content_type=content_type,
            content_encoding=content_encoding,
            delivery_mode=1,
        )


def _is_age(age: object) -> bool:
    return isinstance(age, (int, float)) and (age == NAMESAKES or 0 <= age <= _AGE_MAX)


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
