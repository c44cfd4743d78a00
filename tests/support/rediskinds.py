"""Servers that are Redis in another shape: with TLS, watched by Sentinels, a cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import redis

from support.brokers import PrivateRedis, PrivateServer
from support.ports import free_port
from support.processes import spawn
from support.wait import wait_for

MASTER = "mymaster"


class TlsRedis(PrivateRedis):
    """Answers TLS only, with a certificate of its own making in `certificate`."""

    @property
    def certificate(self) -> Path:
        return self.directory / "cert.pem"

    @property
    def _key(self) -> Path:
        return self.directory / "key.pem"

    def launch(self) -> subprocess.Popen[bytes]:
        if not self.certificate.exists():
            argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
            argv += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(self._key), "-out", str(self.certificate)]
            subprocess.run(argv, check=True, capture_output=True)
        self.options = (
            *("--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(self.certificate), "--tls-key-file", str(self._key)),
            *("--tls-ca-cert-file", str(self.certificate)),
        )
        return super().launch()

    def client(self, db: int = 0) -> redis.Redis:
        return redis.Redis(
            host="127.0.0.1", port=self.port, db=db, ssl=True, ssl_ca_certs=str(self.certificate), socket_timeout=10
        )

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.port}/0?ssl_ca_certs={self.certificate}"


class PrivateSentinel(PrivateServer):
    """A Sentinel that watches one master, and alone decides when to replace it."""

    name = "sentinel"

    def __init__(self, master: PrivateRedis) -> None:
        super().__init__()
        self._master = master

    def launch(self) -> subprocess.Popen[bytes]:
        conf = self.directory / "sentinel.conf"
        conf.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {self._master.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 800\n"
            f"sentinel failover-timeout {MASTER} 5000\n"
        )
        return spawn([self._master.program, str(conf), "--sentinel"], log=self.log)

    def client(self) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=10)

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False

    @property
    def url(self) -> str:
        """Behind one that is not there."""
        return f"sentinel://127.0.0.1:{free_port()}/0;sentinel://127.0.0.1:{self.port}/0"

    def master_port(self) -> int:
        """Return the port of the master, as this Sentinel has it."""
        with self.client() as client:
            found: Any = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        return int(found[1])

    def wait_replica(self) -> None:
        """Wait until it knows the master's replica."""

        def known() -> bool:
            with self.client() as client:
                state: Any = client.execute_command("SENTINEL", "MASTER", MASTER)
            fields = state if isinstance(state, dict) else dict(zip(state[::2], state[1::2], strict=True))
            return int(fields.get("num-slaves", fields.get(b"num-slaves", 0))) >= 1

        wait_for(known, 40, "the Sentinel to find the replica")


class _Node(PrivateRedis):
    """A node of a cluster; its bus has a port of its own, and is no higher than ports go."""

    def choose_ports(self) -> None:
        super().choose_ports()
        self.bus = free_port()

    def launch(self) -> subprocess.Popen[bytes]:
        self.options = (
            *("--cluster-enabled", "yes", "--cluster-port", str(self.bus), "--cluster-node-timeout", "15000"),
            *("--cluster-config-file", "nodes.conf"),
        )
        return super().launch()


class PrivateCluster:
    """Three masters that share the slots. Each keeps its data when it is started again."""

    def __init__(self) -> None:
        self.nodes = [_Node(persist=True) for _ in range(3)]

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        first, *others = self.nodes
        edges = [16384 * number // 3 for number in range(4)]
        for node, start, end in zip(self.nodes, edges, edges[1:], strict=False):
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
        for node in others:
            with node.client() as client:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus)
        self.wait_whole()

    def wait_whole(self) -> None:
        """Wait until every node knows who serves every slot."""
        wait_for(lambda: all(map(_is_whole, self.nodes)), 60, "the cluster to be whole")

    @property
    def url(self) -> str:
        """Behind a node that is not there."""
        return f"redis-cluster://127.0.0.1:{free_port()}/0;redis-cluster://127.0.0.1:{self.nodes[0].port}/0"

    def client(self) -> redis.RedisCluster:
        return redis.RedisCluster(host="127.0.0.1", port=self.nodes[0].port)

    def serving(self, key: str) -> _Node:
        """Return the node that serves `key`."""
        with self.client() as client:
            port = client.get_node_from_key(key).port
        return next(node for node in self.nodes if node.port == port)

    def close(self) -> None:
        for node in self.nodes:
            node.close()


def _is_whole(node: _Node) -> bool:
    with node.client() as client:
        state: Any = client.execute_command("CLUSTER", "INFO")
        slots: Any = client.execute_command("CLUSTER", "SLOTS")
    text = state.decode() if isinstance(state, bytes) else str(state)
    return ("cluster_state:ok" in text or "'cluster_state': 'ok'" in text) and len(slots) >= 3
