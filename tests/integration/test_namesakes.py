"""Two workers of one name: the second says so when it starts, `status` says so, and both go on answering commands."""

from __future__ import annotations

import pytest

from support import workers
from support.wait import wait_for

LONG = 60.0
NAME = "same@here"


@pytest.fixture
def url(request, broker):
    return request.getfixturevalue(f"{broker}_url")


@pytest.mark.parametrize(
    "options", [(), ("--without-mingle",), ("--without-gossip",)], ids=["plain", "no-mingle", "no-gossip"]
)
@pytest.mark.parametrize("broker", ["redis", "amqp", "sqlite"])
def test_the_second_of_a_name_is_told_and_both_answer(url, options, client, start_worker):
    app = client(url)
    first = start_worker("-P", "solo", "-n", NAME, *options, broker=url)
    other = start_worker("-P", "solo", "-n", "other@here", *options, broker=url)
    second = start_worker("-P", "solo", "-n", NAME, *options, broker=url)
    second.wait_line(rf"WARNING.*2 workers are called {NAME}", timeout=LONG)
    wait_for(lambda: len(app.control.ping(timeout=2.0, limit=3)) == 3, LONG, lambda: second.output[-2000:])
    done = workers.run_command("-A", "proj", "status", env=workers.app_environment(broker=url))
    assert done.returncode == 0
    assert f"2 workers are called {NAME}" in done.stderr
    assert done.stdout.count(NAME) == 2
    app.control.revoke("some-id", reply=True, limit=3, timeout=LONG)
    replies = app.control.broadcast("revoked", reply=True, limit=3, timeout=LONG)
    assert [value for reply in replies for value in reply.values()] == [["some-id"]] * 3
    for worker in (first, other):
        assert "workers are called" not in worker.output
    assert "lost their connection" not in second.output + first.output
    assert second.output.count("workers are called") == 1


@pytest.mark.parametrize("broker", ["redis", "amqp", "sqlite"])
def test_a_worker_that_takes_over_a_name_is_not_warned(url, start_worker):
    start_worker("-P", "solo", "-n", NAME, broker=url).stop()
    again = start_worker("-P", "solo", "-n", NAME, broker=url)
    again.wait_line("mingle: all alone", timeout=LONG)
    assert "workers are called" not in again.output
