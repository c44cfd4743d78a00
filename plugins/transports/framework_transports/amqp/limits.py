"""Delivery limits of policies: asks RabbitMQ's management API, because AMQP itself does not show policies.

1. `DeliveryLimits` reads policies and operator policies once, with the first quorum queue.
2. It names, once, each quorum queue whose policy has a ``delivery-limit``: the broker drops a message that reaches
   it, and no worker hears of that.
3. When the API cannot be asked, one warning says why: consuming does not depend on it.
"""

from __future__ import annotations

import base64
import http.client
import logging
import re
from typing import Any, Final
from urllib.parse import quote, urlsplit

import msgspec

from framework.api.transport import Queue
from framework.server_url import mask
from framework_transports.amqp.address import AmqpAddress

logger = logging.getLogger(__name__)

_OK: Final = 200
#: Bytes of an answer that are read, at most; a policy takes about two hundred.
_ANSWER_MAX: Final = 1_000_000
#: Kinds of policies, by their place in the API: they are merged, and the lower limit counts.
_KINDS: Final = {"policies": "policy", "operator-policies": "operator policy"}


class Policy(msgspec.Struct):
    """A policy, as the API shows it."""

    name: str
    pattern: str
    apply_to: str = msgspec.field(name="apply-to")
    priority: int
    definition: dict[str, Any]

    def applies(self, queue: str) -> bool:
        """Return whether it covers the quorum queue `queue`. Raises `re.error` for a pattern only the broker knows."""
        return self.apply_to in ("all", "queues", "quorum_queues") and bool(re.search(self.pattern, queue))


class DeliveryLimits:
    """Names quorum queues with a delivery limit by policy; all consumers of a transport share it."""

    def __init__(self, url: str | None, timeout: float) -> None:
        """`url`: the management API's; None: it is not asked. `timeout`: seconds to wait for each answer."""
        self._url = url
        self._timeout = timeout
        self._policies: dict[str, list[Policy]] | None = None
        self._checked: set[str] = set()

    def check(self, queue: Queue, address: AmqpAddress) -> None:
        """Log a warning if a policy limits the deliveries of `queue`; never raises."""
        is_quorum = (queue.queue_arguments or {}).get("x-queue-type") == "quorum"
        if self._url is None or not is_quorum or queue.name in self._checked:
            return
        self._checked.add(queue.name)
        try:
            if self._policies is None:
                self._policies = {kind: self._ask(self._url, place, address) for place, kind in _KINDS.items()}
            # Of each kind one policy is in force: the one with the highest priority.
            in_force = {
                kind: max(found, key=lambda policy: policy.priority)
                for kind, policies in self._policies.items()
                if (found := [policy for policy in policies if policy.applies(queue.name)])
            }
        except (OSError, http.client.HTTPException, msgspec.MsgspecError, ValueError, re.error) as error:
            logger.warning(
                "Delivery limits that policies set are not known, from queue %r on: the management API at %s cannot "
                "be asked, or not understood (%s); see management_url under [transport.amqp]",
                queue.name,
                mask(self._url),
                error,
            )
            self._url = None
            return
        for kind, policy in in_force.items():
            if (limit := policy.definition.get("delivery-limit")) is not None:
                logger.warning(
                    "The %s %r makes the broker drop messages of queue %r after %s deliveries, %s; remove "
                    "delivery-limit from it, or set it above max_deliveries",
                    kind,
                    policy.name,
                    queue.name,
                    limit,
                    _what_follows(queue, in_force),
                )

    def _ask(self, url: str, place: str, address: AmqpAddress) -> list[Policy]:
        """Return the policies of the virtual host. Raises what `check` catches."""
        parts = urlsplit(url)
        connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = connect(parts.hostname or "", parts.port, timeout=self._timeout)
        try:
            login = base64.b64encode(f"{address.user}:{address.password}".encode()).decode()
            path = f"{parts.path.rstrip('/')}/api/{place}/{quote(address.virtual_host, safe='')}"
            connection.request("GET", path, headers={"Authorization": f"Basic {login}"})
            response = connection.getresponse()
            if response.status != _OK:
                raise ValueError(f"it answers {response.status} {response.reason} to the user {address.user!r}")
            return msgspec.json.decode(response.read(_ANSWER_MAX), type=list[Policy])
        finally:
            connection.close()


def _what_follows(queue: Queue, in_force: dict[str, Policy]) -> str:
    exchange = (queue.queue_arguments or {}).get("x-dead-letter-exchange")
    if exchange is None and "policy" in in_force:
        exchange = in_force["policy"].definition.get("dead-letter-exchange")
    if exchange is None:
        return "and they are lost: the queue has no dead-letter exchange"
    return f"and sends them to the exchange {exchange!r}, not to the worker's dead-letter queue"
