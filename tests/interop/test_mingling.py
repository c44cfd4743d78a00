"""Revoked ids travel between our workers and Celery's when one of them starts (acceptance G 98)."""

from __future__ import annotations

import pytest

from support.wait import wait_for


@pytest.mark.acceptance(98)
@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_each_learns_what_the_other_knows(request, broker, start_worker, start_celery_worker, celery_client):
    url = request.getfixturevalue(f"{broker}_url")
    control = celery_client(url).control

    def revoked(node):
        return (control.inspect([node], timeout=10, limit=1).revoked() or {}).get(node)

    theirs = start_celery_worker("-P", "solo", "-n", "theirs@here", "--without-gossip", broker=url)
    control.revoke("told to theirs", destination=["theirs@here"], reply=True, timeout=10)
    ours = start_worker("-P", "solo", "-n", "ours@here", broker=url)
    wait_for(lambda: revoked("ours@here") == ["told to theirs"], 30, lambda: ours.output[-2000:])
    ours.wait_line("mingle: sync with 1 nodes")
    control.revoke("told to ours", destination=["ours@here"], reply=True, timeout=10)
    late = start_celery_worker("-P", "solo", "-n", "late@here", "--without-gossip", broker=url)
    late.wait_line("mingle: sync with 2 nodes", timeout=20)
    # It listens only a moment after it has said so.
    wait_for(lambda: revoked("late@here"), 30, lambda: late.output[-2000:])
    assert set(revoked("late@here")) == {"told to theirs", "told to ours"}
    assert theirs.running
    for worker in (ours, theirs, late):
        assert "Traceback" not in worker.output
