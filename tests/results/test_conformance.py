"""Our own result stores before the suite that a stranger's store has to pass."""

from __future__ import annotations

from contextlib import closing

import pytest

from framework.testing.result_stores import ResultStoreSuite
from framework_transports.amqp import AmqpOptions, AmqpTransport
from framework_transports.sqlite import SqliteTransport


class TestRedis(ResultStoreSuite):
    result_store = "redis"

    @pytest.fixture
    def store_url(self, redis_url):
        return redis_url


class TestSqlite(ResultStoreSuite):
    result_store = "sqlite"

    @pytest.fixture
    def store_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/results.db"


class TestRpcByAmqp(ResultStoreSuite):
    result_store = "rpc"
    url = "rpc://"

    @pytest.fixture
    def lent(self, amqp_url):
        with closing(AmqpTransport(amqp_url, AmqpOptions(), {})) as transport:
            yield {"producer": transport.producer, "consumer": transport.consumer}


class TestRpcBySqlite(ResultStoreSuite):
    result_store = "rpc"
    url = "rpc://"

    @pytest.fixture
    def lent(self, sqlite_url):
        with closing(SqliteTransport(sqlite_url, SqliteTransport.options_type(), {})) as transport:
            yield {"producer": transport.producer, "consumer": transport.consumer}


class TestNone(ResultStoreSuite):
    result_store = "none"
    url = "none://"
