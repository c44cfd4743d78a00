"""The connection of remote control: when it connects again, and what it logs of that."""

from __future__ import annotations

import logging

import pytest

from framework.exceptions import ConnectionLost
from framework.worker.steps.control.connection import ControlConnection


class Loop:
    """A loop whose clock moves when it is told to."""

    def __init__(self):
        self.now = 0.0
        self.timers = []
        self.readers = {}

    def time(self):
        return self.now

    def call_soon(self, callback, *args):
        self.call_later(0.0, callback, *args)

    def call_later(self, delay, callback, *args):
        timer = Timer(self.now + delay, callback, args)
        self.timers.append(timer)
        return timer

    def call_every(self, interval, callback, *args):
        return self.call_later(interval, callback, *args)

    def add_reader(self, fd, callback):
        self.readers[fd] = callback

    def remove_reader(self, fd):
        self.readers.pop(fd, None)

    def advance(self, until):
        """Run what is due until then."""
        while due := [timer for timer in self.timers if timer.when <= until]:
            timer = min(due, key=lambda one: one.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.when)
            if not timer.cancelled:
                timer.callback(*timer.args)
        self.now = until


class Timer:
    def __init__(self, when, callback, args):
        self.when, self.callback, self.args = when, callback, args
        self.cancelled = False

    def cancel(self):
        self.cancelled = True


class Broker:
    """Makes mailboxes that live for some seconds, and counts them."""

    def __init__(self, loop, life, reasons=("reset",)):
        self.loop, self.life, self.reasons = loop, life, reasons
        self.made = []
        self.heartbeat_interval = None

    def mailbox(self):
        self.made.append(self.loop.now)
        return Mailbox(self, self.loop.now + self.life, self.reasons[len(self.made) % len(self.reasons)])


class Mailbox:
    congested = False

    def __init__(self, broker, until, reason):
        self.broker, self.until, self.reason = broker, until, reason
        self.heartbeat_interval = broker.heartbeat_interval
        broker.loop.call_later(broker.life, lambda: broker.loop.readers.get(7, lambda: None)())

    def fileno(self):
        return 7

    def receive(self):
        if self.broker.loop.now >= self.until:
            raise ConnectionLost(self.reason)
        return ()

    def close(self):
        pass


@pytest.mark.parametrize("life", [0.0, 0.01, 1.0])
def test_a_connection_that_is_lost_again_and_again_is_made_with_pauses_and_logged_once_a_reason(life, caplog):
    caplog.set_level(logging.INFO)
    loop = Loop()
    broker = Broker(loop, life, ("reset", "closed"))
    ControlConnection(loop, broker).start()
    loop.advance(60.0)
    # The pauses grow to one or two seconds.
    assert 20 <= len(broker.made) <= 70
    assert sorted(record.message.rpartition(": ")[2] for record in caplog.records if record.levelno >= 30) == [
        "closed",
        "reset",
    ]
    assert len(caplog.records) <= 4
    # It says that it is back when it has worked for a while.
    broker.life = 1000.0
    before = len(broker.made)
    loop.advance(80.0)
    assert len(broker.made) <= before + 1
    assert caplog.records[-1].message == "Remote control and events are available again"


def test_a_stable_connection_is_made_anew_at_once(caplog):
    caplog.set_level(logging.INFO)
    loop = Loop()
    broker = Broker(loop, 100.0)
    ControlConnection(loop, broker).start()
    loop.advance(250.0)
    assert broker.made == [0.0, 100.0, 200.0]
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "Remote control and events lost their connection, reconnecting",
        "Remote control and events are available again",
    ] * 2
