"""The conformance suite of transports: every promise of `framework.api.transport` is a test.

In the plugin's own repository one class is enough::

    from framework.testing.transports import TransportSuite

    class TestAcmeTransport(TransportSuite):
        transport = "acme"
        url = "acme://localhost:1234/tests"

1. To start a broker first, override the fixture `broker_url`.
2. Every test uses new names of queues and exchanges, so the broker need not be empty.
3. Skips tests that need a trait which the transport does not have, and tests in `excused`, with the author's reason.
4. `messages`, `settling`, `waking`, `parking`, `fanout`, `ends` hold the tests by subject; `base` holds the attributes
   of a suite.
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
    """Tests every promise of a transport. Subclass it, name the class ``Test…``, and set `transport` and `url`."""
