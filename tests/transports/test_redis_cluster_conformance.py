"""The conformance suite against a cluster of three nodes."""

from __future__ import annotations

import pytest

from framework.testing.transports import TransportSuite
from support.rediskinds import PrivateCluster


@pytest.fixture(scope="module")
def cluster(redis_server):
    # Asked for first only so that a missing one skips here and fails in CI.
    servers = PrivateCluster()
    try:
        servers.start()
        yield servers
    finally:
        servers.close()


class TestRedisCluster(TransportSuite):
    transport = "redis-cluster"
    options = {"lease": 1.0}  # noqa: RUF012

    @pytest.fixture
    def broker_url(self, cluster):
        return cluster.url
