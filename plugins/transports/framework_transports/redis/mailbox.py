"""The mailbox: receives and publishes fan-out messages, for remote control and events.

1. A queue on a fan-out exchange is a subscription: it receives messages while it is subscribed, and stores none.
2. Any other queue (a client's reply queue) is a list, read when the server reports a change of its key.
3. `send` publishes on the same connection, without checking for subscribers.
4. On a server without pushes (older than Redis 6) the mailbox sends on a second connection, and holds either
   subscriptions or reply queues.

Source: kombu's fan-out channels and reply queues, section 9.7 of the wire protocol.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from framework.api.transport import Mailbox, Queue
from framework.exceptions import ConnectionLost, TransportError
from framework.message import Outgoing, Payload
from framework_drivers.redis.resp import WATCH_NEXT, Command, Push, RedisConnection, RedisConnectionSettings, packer
from framework_drivers.redis.url import RedisAddress
from framework_transports.redis.keys import Keys
from framework_transports.redis.router import RedisRouter

#: What makes a pattern of a channel's name.
_WILD: Final = re.compile(r"[*?\[]")
#: Replies read from a list at once.
_PAGE: Final = 1000
#: Lifetime (ms) of a reply that its client does not read: the client may have been killed.
_REPLY_TTL: Final = 30_000
#: Seconds within which the server must give a sign of life.
HEARTBEAT_INTERVAL: Final = 4.0
#: Unanswered commands before the mailbox is congested: batches of events, of some 50 KB each, then fit in the socket.
_UNANSWERED_MAX: Final = 16


class RedisMailbox(Mailbox):
    """Listens on one connection, and sends on it too unless the server is older than Redis 6."""

    heartbeat_interval = HEARTBEAT_INTERVAL

    def __init__(self, addresses: Sequence[RedisAddress], settings: RedisConnectionSettings, keys: Keys) -> None:
        self._addresses = addresses
        self._settings = settings
        self._keys = keys
        self._router = RedisRouter(keys)
        self._pack = packer()
        self._arrived: list[tuple[str, Payload]] = []
        #: Exchange names by subscribed pattern; (exchange, queue) by list.
        self._patterns: dict[bytes, str] = {}
        self._lists: dict[str, tuple[str, Queue]] = {}
        self._exclusive: list[Queue] = []
        self._changed = False
        #: Replies and messages on a connection without pushes, and how many signs of life there were at the last
        #: `heartbeat`.
        self._heard = 0
        self._signs = -1
        self._sender: RedisConnection | None = None
        self._connection = RedisConnection(addresses, settings, self._on_push)
        # The other pushes of RESP3 are used only together with tracking.
        self._pushes = self._connection.watch_keys()

    # ------------------------------------------------------------ in

    def subscribe(self, queue: Queue) -> None:
        """Listen to `queue`: to a channel when its exchange is fan-out, else to a list."""
        if queue.exclusive or queue.auto_delete:
            self._exclusive.append(queue)
        sender = self._sending_connection()
        declare = self._router.declare([queue])
        if declare:
            sender.run(declare)
        fanout = queue.exchange.type == "fanout" and bool(queue.exchange.name)
        if not self._pushes and (self._lists if fanout else self._patterns):
            raise TransportError(
                f"queue {queue.name!r} cannot be listened to beside the others: one mailbox holds either fan-out "
                "subscriptions or reply queues on servers older than Redis 6"
            )
        if fanout:
            self._subscribe(queue)
        else:
            # Celery and this transport publish replies to the list of priority 0.
            self._lists[self._keys.list_for(queue.name, 0)] = (queue.exchange.name, queue)
            if self._pushes:
                self._changed = True
                self._connection.wake()
            else:
                self._block()

    def _subscribe(self, queue: Queue) -> None:
        connection, pattern = self._connection, self._keys.subscription(queue)
        # A channel needs fewer rights than a pattern: the very pattern must be in the account's ACL.
        command = ("PSUBSCRIBE" if _WILD.search(pattern) else "SUBSCRIBE", pattern)
        self._patterns[pattern.encode()] = queue.exchange.name
        if connection.resp3:
            # The confirmation is a push; the reply to the command after it proves the subscription.
            replies = connection.exchange(self._pack(command) + self._pack(("PING",)), 1)
            if connection.is_error(replies[0]) and len(replies) == 1:
                connection.read(1)
        else:
            replies = connection.exchange(self._pack(command), 1)
        if connection.is_error(replies[0]):
            del self._patterns[pattern.encode()]
            connection.raise_error(replies[0], command)
        for reply in replies:
            self._on_message(reply)
        self._wake_if_pending()

    def _on_push(self, push: Push) -> None:
        if push[0] == b"invalidate":
            self._changed = True
        else:
            self._on_message(push)

    def _on_message(self, message: Any) -> None:
        # ``pmessage, pattern, channel, payload`` or ``message, channel, payload``
        if isinstance(message, list) and message[0] in (b"pmessage", b"message"):
            exchange = self._patterns.get(message[1])
            if exchange is not None:
                self._arrived.append((exchange, message[-1]))

    def receive(self) -> Sequence[tuple[str, Payload]]:
        """Return the messages that have arrived."""
        for reply in self._connection.drain():
            self._heard += 1
            if self._lists:
                self._unblock(reply)
            else:
                self._on_message(reply)
        if self._changed:
            self._empty_lists()
        arrived, self._arrived = self._arrived, []
        return arrived

    def _empty_lists(self) -> None:
        """Take all messages from the lists, and have the server watch them from then on."""
        self._changed = False
        if not self._lists:
            return
        commands: list[Command] = []
        for key in self._lists:
            commands += [("MULTI",), ("LRANGE", key, -_PAGE, -1), ("LTRIM", key, 0, -_PAGE - 1), ("EXEC",)]
            # This read, after the transaction, makes the server watch the list.
            commands += [WATCH_NEXT, ("EXISTS", key)]
        replies = self._connection.run(commands)
        for number, (exchange, queue) in enumerate(self._lists.values()):
            taken, left = replies[6 * number + 3][0], replies[6 * number + 5]
            # The oldest message is the last of the list.
            self._arrived += [(exchange, payload) for payload in reversed(taken)]
            if left:
                self._changed = True
            if queue.expires:
                self._connection.call("PEXPIRE", self._keys.list_for(queue.name, 0), int(queue.expires * 1000))
        if self._changed:
            self._connection.wake()

    def _block(self) -> None:
        self._connection.send(self._pack(("BRPOP", *self._lists, 0)))

    def _unblock(self, reply: Any) -> None:
        if isinstance(reply, list) and len(reply) == 2:
            exchange, _ = self._lists[reply[0].decode()]
            self._arrived.append((exchange, reply[1]))
            self._block()

    def heartbeat(self) -> None:
        """Send a PING; raise `ConnectionLost` if nothing was answered since the last one."""
        connection = self._connection
        if not self._pushes and self._lists:
            return  # the server answers nothing before there is a message in a list
        signs = self._heard + connection.answered
        if signs == self._signs:
            connection.close()
            raise ConnectionLost(
                f"the connection to {connection.address.display} was lost: no sign of life within "
                f"{HEARTBEAT_INTERVAL:g} s"
            )
        self._signs = signs
        if self._pushes:
            connection.wake()
        elif self._patterns:
            connection.send(self._pack(("PING",)))
        else:
            self._signs = -1

    def fileno(self) -> int:
        """Return the descriptor that turns readable when a message may have arrived."""
        return self._connection.fileno()

    # ------------------------------------------------------------ out

    def _sending_connection(self) -> RedisConnection:
        if self._pushes:
            return self._connection
        if self._sender is None:
            self._sender = RedisConnection(self._addresses, self._settings)
        return self._sender

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Publish; messages without a subscriber are dropped."""
        connection = self._sending_connection()
        commands = self._commands(connection, messages)
        if commands and self._pushes:
            # The loop watches this connection and reads the replies.
            connection.send_unchecked(commands)
        elif commands:
            connection.run(commands)
        self._wake_if_pending()

    def reach(self, messages: Sequence[Outgoing]) -> int | None:
        """Publish, and return how many subscriptions received it."""
        connection = self._sending_connection()
        commands = self._commands(connection, messages)
        replies = connection.run(commands) if commands else []
        self._wake_if_pending()
        return sum(int(reply) for command, reply in zip(commands, replies, strict=True) if command[0] == "PUBLISH")

    def _commands(self, connection: RedisConnection, messages: Sequence[Outgoing]) -> list[Command]:
        commands = self._router.commands(connection, messages, refuse=False)
        # The reader waits now; replies that nobody reads must not stay on the server.
        return commands + [("PEXPIRE", command[1], _REPLY_TTL) for command in commands if command[0] == "LPUSH"]

    @property
    def congested(self) -> bool:
        """Whether the server replies more slowly than this mailbox sends."""
        return self._sending_connection().unanswered > _UNANSWERED_MAX

    def _wake_if_pending(self) -> None:
        """Make the descriptor readable if a message or a change arrived while a reply was read."""
        if self._arrived or self._changed:
            if self._pushes:
                self._connection.wake()
            elif not self._lists and self._patterns:
                # A subscribed connection answers PING with a message of two parts, which `_on_message` ignores.
                self._connection.send(self._pack(("PING",)))

    def close(self) -> None:
        """Disconnect, and delete the lists and bindings of exclusive queues."""
        if self._connection.closed:
            return
        with suppress(ConnectionLost, TransportError):
            if self._connection.pid == os.getpid() and self._exclusive:
                commands: list[Command] = []
                for queue in self._exclusive:
                    commands.append(("DEL", *self._keys.lists(queue.name)))
                    if queue.exchange.name:
                        member = self._keys.member(queue)
                        commands.append(("SREM", self._keys.bindings(queue.exchange.name), member))
                        commands.append(("SREM", self._keys.permanent_bindings(queue.exchange.name), member))
                self._sending_connection().run(commands)
            elif self._connection.pid == os.getpid() and self._connection.unanswered:
                # Closing a socket with unread replies would discard commands that the server has not read yet.
                self._connection.call("PING")
        self._connection.close()
        if self._sender is not None:
            self._sender.close()
