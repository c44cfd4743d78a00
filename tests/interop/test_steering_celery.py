"""Our client steers a Celery worker: queues, rate limits, revokes (acceptance E 74; L 150, 156, roles exchanged)."""

from __future__ import annotations

import uuid

import pytest

from support import ledger
from support.wait import wait_for


@pytest.mark.acceptance(74)
@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_a_celery_worker_does_what_our_client_asks_for(request, broker, start_celery_worker, client, ledger_path):
    url = request.getfixturevalue(f"{broker}_url")
    node = "theirs@here"
    start_celery_worker(
        "-P", "threads", "-c", "2", "-n", node, "--without-gossip", "--without-mingle", broker=url, ledger=ledger_path
    )
    app = client(url)
    control = app.control
    to_it = {"destination": [node], "reply": True, "timeout": 15}
    assert control.ping([node], timeout=15) == [{node: {"ok": "pong"}}]

    assert control.add_consumer("foo", **to_it) == [{node: {"ok": "add consumer foo"}}]
    # Celery answers before it acts.
    inspect = control.inspect(node, timeout=15)
    wait_for(lambda: "foo" in {queue["name"] for queue in inspect.active_queues()}, 30, "the queue to be consumed")
    app.tasks["proj.record"].apply_async(("by-foo",), queue="foo")
    wait_for(lambda: ledger.read(ledger_path)["by-foo"] == 1, 30, "the task in the added queue")
    assert control.cancel_consumer("foo", **to_it) == [{node: {"ok": "no longer consuming from foo"}}]

    assert control.rate_limit("proj.add", "7/m", **to_it) == [{node: {"ok": "new rate limit set successfully"}}]
    assert "proj.add [rate_limit=7/m]" in inspect.registered()
    assert control.rate_limit("proj.add", 0, **to_it) == [{node: {"ok": "rate limit disabled successfully"}}]

    task_id = str(uuid.uuid4())
    assert "flagged as revoked" in control.revoke([task_id], **to_it)[0][node]["ok"]
    assert task_id in inspect.revoked()
    reply = control.revoke_by_stamped_headers({"mon": ["abc"]}, **to_it)[0][node]
    assert reply == {"ok": "headers {'mon': ['abc']} flagged as revoked, but not terminated"}
