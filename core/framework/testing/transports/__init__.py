"""The conformance suite of transports: every promise of `framework.api.transport` is a test.

In the plugin's own repository one class is enough::

    from framework.testing.transports import TransportSuite

    class TestAcmeTransport(TransportSuite):
        transport = "acme"
        url = "acme://localhost:1234/tests"

1. A broker that has to be started first gives its address in a fixture: override `broker_url`.
2. Names of queues and exchanges are new in every test: the broker need not be empty.
3. What the transport's traits rule out is skipped; so is what the author excuses, with his reason.
4. `messages`, `settling`, `waking`, `parking`, `fanout`, `ends` hold the tests by subject; `base` has what a suite may
   be told.
"""

from __future__ import annotations

from framework.testing.transports.base import Bench, TransportSuiteBase, needs
from framework.testing.transports.ends import EndPromises
from framework.testing.transports.fanout import FanoutPromises
from framework.testing.transports.messages import MessagePromises
from framework.testing.transports.parking import ParkingPromises
from framework.testing.transports.settling import SettlingPromises
from framework.testing.transports.waking import WakingPromises

__all__ = ["Bench", "TransportSuite", "needs"]


class TransportSuite(
    MessagePromises, SettlingPromises, WakingPromises, ParkingPromises, FanoutPromises, EndPromises, TransportSuiteBase
):
    """Every promise of a transport. Subclass it, name the class ``Test…``, and set `transport` and `url`."""
