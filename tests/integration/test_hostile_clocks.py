"""A logical clock, or another number, at the end of its range: workers go on answering, and so do later ones."""

from __future__ import annotations

import pytest

from framework.message import Outgoing
from framework.wire.event_message import outgoing
from framework.wire.serialization import encode
from support import ledger
from support.wait import wait_for

LONG = 60.0


@pytest.mark.parametrize("broker", ["redis", "amqp", "sqlite"])
def test_a_clock_at_the_end_of_its_range_stops_no_worker(request, broker, start_worker, client, ledger_path):
    url = request.getfixturevalue(f"{broker}_url")
    app = client(url)
    first = start_worker("-P", "solo", "-n", "first@here", broker=url, ledger=ledger_path)

    def ask(node, command, **arguments):
        (reply,) = app.control.broadcast(command, arguments, destination=[node], reply=True, timeout=LONG)
        return reply[node]

    content_type, content_encoding, body, _ = encode({"method": "heartbeat", "arguments": {}})
    traits = app.transport.traits
    event = {"type": "worker-heartbeat", "hostname": "bad@here", "clock": 2**63 - 1, "freq": 1e308, "timestamp": 1e308}
    mailbox = app.transport.mailbox()
    mailbox.send(
        [
            Outgoing(
                body=body, headers={"clock": 2**63 - 1}, exchange="celery.pidbox", exchange_type="fanout",
                content_type=content_type, content_encoding=content_encoding, delivery_mode=1,
            ),
            outgoing(
                event, "worker.heartbeat", "bad@here", exchange="celeryev", exchange_type=traits.events_exchange
            ),
        ]
    )  # fmt: skip
    mailbox.close()
    first.wait_line("The logical clock 9e.18 of a control message or event is ignored")
    assert ask("first@here", "ping") == {"ok": "pong"}
    second = start_worker("-P", "solo", "-n", "second@here", broker=url, ledger=ledger_path)
    second.wait_line("mingle: sync with 1 nodes", timeout=LONG)
    for node in ("first@here", "second@here"):
        assert ask(node, "ping") == {"ok": "pong"}
        assert 0 < ask(node, "clock")["clock"] < 1_000_000
    assert "error" in ask("first@here", "autoscale", max=2**70)
    assert "error" in ask("first@here", "time_limit", task_name="proj.record", hard=1e300)
    assert "error" in ask("first@here", "add_consumer", queue="q", max_length=2**70)
    app.tasks["proj.record"].delay("one")
    wait_for(lambda: ledger.read(ledger_path).keys() == {"one"}, LONG, lambda: first.output[-2000:])
    assert len(first.lines("The logical clock")) == 1
    assert not first.lines("Traceback") + second.lines("Traceback")
