"""rediss://: broker and results over TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from framework.exceptions import ConnectionLost
from framework_transports.redis import RedisOptions, RedisTransport
from support import ledger
from support.held import LONG
from support.rediskinds import TlsRedis
from support.wait import wait_for


@pytest.fixture
def server(private_server: Any) -> TlsRedis:
    return private_server(TlsRedis)


def test_tasks_results_and_control_over_tls(
    server: TlsRedis, start_worker: Any, client: Any, ledger_path: Path
) -> None:
    app = client(server.url, server.url)
    worker = start_worker("-c", "2", broker=server.url, backend=server.url, ledger=ledger_path)
    # One at a time: each wakes an idle worker.
    assert [app.tasks["proj.add"].delay(number, 1).get(timeout=LONG) for number in range(20)] == list(range(1, 21))
    ids = list(range(2000))
    app.send_many(app.tasks["proj.record_late"].si(number) for number in ids[:1000])
    assert app.control.ping(timeout=20, limit=1)
    server.restart()
    worker.wait_line("Connected to", timeout=LONG, count=2)
    again = client(server.url, server.url)
    # What the server had forgotten with its restart is sent anew.
    missing = ledger.balance(ids, ledger_path).lost
    again.send_many(again.tasks["proj.record_late"].si(int(number)) for number in missing)
    wait_for(lambda: not ledger.balance(ids, ledger_path).lost, LONG, lambda: worker.output[-2000:])
    assert worker.stop() == 0
    assert ledger.balance(ids, ledger_path).balanced
    assert "Traceback" not in worker.output


def test_a_certificate_is_checked_unless_told_otherwise(server: TlsRedis) -> None:
    plain, _, _ = server.url.partition("?")
    with pytest.raises(ConnectionLost, match="certificate verify failed"):
        RedisTransport(plain, RedisOptions(), {}).consumer()
    RedisTransport(f"{plain}?ssl_cert_reqs=none", RedisOptions(), {}).consumer().close(requeue=True)
    table = {"ssl_ca_certs": str(server.certificate)}
    RedisTransport(plain.replace("rediss", "redis"), RedisOptions(), {"use_ssl": table}).consumer().close(requeue=True)
