"""Promises 5 and 6: use after `close` is an error, passwords stay secret, and nothing leaks."""

from __future__ import annotations

import json
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from framework._boot import loader
from framework.exceptions import ConnectionLost, FrameworkError
from framework.testing.survey import survey
from framework.testing.transports.base import Bench, TransportSuiteBase, ids, needs
from framework.testing.wait import wait_for

SECRET = "s3cr3t-w0rd"


class EndPromises(TransportSuiteBase):
    """Tests of closing and of displayed information."""

    def test_closed_faces_say_so(self, bench: Bench) -> None:
        """A second `close` is harmless; `fetch` after it raises ConnectionLost, and a late `ack` raises nothing."""
        queue = bench.filled(1)
        producer, consumer = bench.producer(), bench.consumer(queue)
        [delivery] = bench.gather(consumer, 1)
        producer.close()
        producer.close()
        consumer.close(requeue=False)
        consumer.close(requeue=True)
        with pytest.raises(ConnectionLost):
            consumer.fetch(1)
        delivery.ack()

    def test_transports_to_one_url_share_a_broker(self, bench: Bench) -> None:
        """Two transports with the same URL see the same messages."""
        queue = bench.filled(2)
        assert bench.another().sizes([queue]) == {queue.name: 2}

    def test_making_a_transport_connects_to_nothing(self, bench: Bench) -> None:
        """Neither the constructor nor `close` connects to the broker."""
        before = survey()
        transport = bench.another()
        assert survey().left_since(before) == []
        transport.close()

    def test_its_urls_lead_to_it(self, bench: Bench) -> None:
        """The scheme of the URL selects this transport; `accepts` returns False for an unknown scheme."""
        if isinstance(self.transport, str):
            assert loader.load("transport", loader.transport_name(bench.url)) is bench.transport_type
        assert bench.transport_type.accepts(f"nobody-{uuid4().hex}") is False

    def test_no_password_is_shown(self, bench: Bench) -> None:
        """Neither `display_url` nor `info` nor an error message shows the password."""
        parts = urlsplit(bench.url)
        place = parts.netloc.rpartition("@")[2]
        try:
            transport = bench.another(parts._replace(netloc=f"somebody:{SECRET}@{place}").geturl())
            shown = transport.display_url + json.dumps(transport.info())
        except FrameworkError as error:
            shown = str(error)
        assert SECRET not in shown

    def test_info_can_be_shown(self, bench: Bench) -> None:
        """`info` returns JSON values, with the keys that `inspect stats` shows for every broker."""
        info = bench.transport.info()
        json.dumps(info)
        assert {"hostname", "port", "transport", "virtual_host"} - info.keys() == set()

    def test_ten_lives_leave_nothing_behind(self, bench: Bench) -> None:
        """Ten sets of producer, consumer and mailbox leave no descriptor, thread or child process."""
        queue = bench.queue()
        self._live(bench, queue)
        before = survey()
        for _ in range(10):
            self._live(bench, queue)
        found: list[str] = []

        def nothing() -> bool:
            found[:] = survey().left_since(before)
            return not found

        wait_for(nothing, self.patience, lambda: f"no leak; found {', '.join(found)}")

    def _live(self, bench: Bench, queue: object) -> None:
        transport = bench.another()
        producer, consumer = transport.producer(), transport.consumer()
        consumer.add_queue(queue)  # type: ignore[arg-type]
        producer.publish([bench.message(0, queue)])  # type: ignore[arg-type]
        [delivery] = bench.gather(consumer, 1)
        delivery.ack()
        if transport.traits.fanout:
            transport.mailbox().close()
        consumer.close(requeue=True)
        producer.close()
        transport.close()

    @needs("shared_rate_limit")
    def test_a_shared_rate_limit_gives_out_each_start_once(self, bench: Bench) -> None:
        """Starts that two workers reserve in turn under one name are an interval apart."""
        name = bench.new("rate")
        limits = [bench.transport.shared_rate_limit(), bench.another().shared_rate_limit()]
        for limit in limits:
            bench.opened.callback(limit.close)
        waits = [limits[turn % 2].reserve(name, 10.0, 1) for turn in range(4)]
        assert waits == sorted(waits)
        # Time passes between two calls.
        assert [round((later - waits[0]) / 10.0, 1) for later in waits] == [0.0, 1.0, 2.0, 3.0]
        assert limits[0].reserve(bench.new("rate"), 10.0, 1) == pytest.approx(0.0, abs=0.1)

    def test_one_message_for_a_new_queue(self, bench: Bench) -> None:
        """A consumer declares its queue, which keeps all messages that are sent to it from then on."""
        queue = bench.queue()
        consumer = bench.consumer(queue)
        bench.producer().publish([bench.message("first", queue)])
        assert ids(bench.gather(consumer, 1)) == ["first"]
