"""Links that break again and again, or carry nothing any more without a word: remote control comes back."""

from __future__ import annotations

import re
from collections import Counter
from urllib.parse import urlsplit

import pytest

from support import ledger
from support.proxy import Proxy
from support.wait import wait_for

LONG = 60.0


@pytest.fixture
def url(request, broker):
    return request.getfixturevalue(f"{broker}_url")


@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_a_link_that_lives_for_some_bytes_is_logged_once_a_reason(url, client, start_worker, ledger_path):
    app = client(url)
    with Proxy(urlsplit(url).port) as proxy:
        worker = start_worker("-P", "solo", "-n", "w@here", broker=proxy.through(url), ledger=ledger_path)
        proxy.cut_every(4_000)
        app.control.ping(timeout=0.1)
        before = proxy.connections
        proxy.cut()
        wait_for(lambda: proxy.connections >= before + 12, LONG, lambda: worker.output[-2000:])
        proxy.heal()
        app.tasks["proj.record"].delay("after")
        wait_for(lambda: ledger.read(ledger_path)["after"] == 1, LONG, lambda: worker.output[-2000:])
        wait_for(lambda: app.control.ping(timeout=1.0, limit=1), LONG, lambda: worker.output[-2000:])
        worker.wait_line("Remote control and events are available again", timeout=LONG)
        lines = Counter(re.sub(r"^.*?(WARNING|ERROR)/", "", line) for line in worker.lines("WARNING/|ERROR/"))
        often = {line: count for line, count in lines.items() if "Remote control and events" in line and count > 1}
        assert not often


@pytest.mark.parametrize("broker", ["redis", "amqp"])
def test_a_link_that_swallows_everything_is_noticed_and_replaced(url, client, start_worker):
    app = client(url)
    with Proxy(urlsplit(url).port) as proxy:
        worker = start_worker("-P", "solo", "-n", "w@here", broker=proxy.through(url))
        assert app.control.ping(timeout=LONG, limit=1)
        assert proxy.forget() >= 2
        worker.wait_line("Remote control and events lost their connection, .*no sign of life", timeout=LONG)
        worker.wait_line("Remote control and events are available again", timeout=LONG)
        assert app.control.ping(timeout=LONG, limit=1)
