"""Private brokers for tests and benchmarks: never a system service, never a fixed port.

1. `PrivateRedis` and `PrivateRabbit` start a server on free loopback ports, its data in a directory of its own.
2. They are ready when they answer a client, not after some time.
3. `stop`, `kill`, `restart`, `pause`, `resume` act on that server alone; with `persist` data outlives `restart`.
4. `fresh_url()` hands out an empty place of its own: a Redis database, an AMQP virtual host.
5. A server that is not installed is `BrokerMissing`; the fixtures make of it a skip at home and a failure in CI.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar

import amqp
import psutil
import redis

from support.ports import free_port
from support.processes import kill_all, members, spawn, tail
from support.wait import wait_for

START_TIMEOUT = 90.0
ATTEMPTS = 3
#: Debian's real scripts; those in PATH insist on the service's user and its home.
DEBIAN_RABBIT = Path("/usr/lib/rabbitmq/bin")


class BrokerMissing(Exception):
    """The server's program is not on this machine."""


class PrivateServer:
    """What both servers share: one process tree, one data directory."""

    name: ClassVar[str]

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        self._owns_directory = directory is None
        self.directory = Path(directory or tempfile.mkdtemp(prefix=f"test-{self.name}-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = self.directory / "server.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._paused: list[psutil.Process] = []

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start on the port used before, or on a free one; returns when the server answers."""
        fixed = self.port != 0
        for attempt in range(1, ATTEMPTS + 1):
            if not fixed:
                self.choose_ports()
            try:
                self._start_once()
            except AssertionError:
                # Somebody took the port between our looking and the server's binding: look again.
                self.kill()
                if fixed or attempt == ATTEMPTS:
                    raise
            else:
                return

    def begin(self) -> None:
        """Start on the port used before, and wait for nothing."""
        self._process = self.launch()

    def _start_once(self) -> None:
        self._process = process = self.launch()

        def ready() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {process.returncode} at start:\n{tail(self.log)}")
            return self.answers()

        wait_for(ready, START_TIMEOUT, lambda: f"{self.name} to answer on port {self.port}:\n{tail(self.log)}")

    def choose_ports(self) -> None:
        self.port = free_port()

    def launch(self) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def answers(self) -> bool:
        raise NotImplementedError

    def fresh_url(self) -> str:
        raise NotImplementedError

    def stop(self, timeout: float = 20) -> None:
        """End the server gently; harmless when it does not run."""
        if self._process is None:
            return
        self.resume()
        tree = members(self._process.pid)
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        kill_all(tree)
        self._process.wait(10)
        self._process = None

    def kill(self) -> None:
        """End the server as a power cut would; harmless when it does not run."""
        if self._process is None:
            return
        self._paused.clear()
        kill_all(members(self._process.pid))
        self._process.wait(10)
        self._process = None

    def restart(self, *, gently: bool = True) -> None:
        """Stop (or kill) and start again on the same port."""
        if gently:
            self.stop()
        else:
            self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze the server: connections stay open, nothing is answered."""
        self._paused = members(self.pid)
        for process in self._paused:
            process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on; harmless when it is not paused."""
        for process in self._paused:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
        self._paused.clear()

    def close(self) -> None:
        """Stop and remove the data."""
        # Nobody needs its data any more, so there is nothing to be gentle about.
        self.kill()
        if self._owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)


class PrivateRedis(PrivateServer):
    """A `redis-server`; `persist=True` writes every change to disk, so that `restart` loses nothing."""

    name = "redis"
    DATABASES: ClassVar[int] = 4096

    def __init__(
        self, directory: str | os.PathLike[str] | None = None, *, persist: bool = False, options: tuple[str, ...] = ()
    ) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise BrokerMissing("redis-server is not installed (Debian: apt install redis-server)")
        super().__init__(directory)
        self.program = program
        self._persist = persist
        self.options = options
        self._next_db = 0

    def launch(self) -> subprocess.Popen[bytes]:
        durable = ("--appendonly", "yes", "--appendfsync", "always") if self._persist else ("--appendonly", "no")
        argv = [self.program, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        argv += ["--daemonize", "no", "--save", "", "--databases", str(self.DATABASES), *durable, *self.options]
        return spawn(argv, log=self.log)

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:  # refused, or still loading its data
            return False

    def client(self, db: int = 0) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port, db=db, socket_timeout=10)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def fresh_url(self) -> str:
        self._next_db = self._next_db % (self.DATABASES - 1) + 1
        with self.client(self._next_db) as client:
            client.flushdb()
        return f"redis://127.0.0.1:{self.port}/{self._next_db}"


class PrivateRabbit(PrivateServer):
    """A `rabbitmq-server` with its own Erlang cookie, node name and port mapper (epmd)."""

    name = "rabbitmq"
    #: Virtual hosts made at start, and again whenever they are used up.
    BATCH: ClassVar[int] = 40

    def __init__(self, directory: str | os.PathLike[str] | None = None) -> None:
        script = DEBIAN_RABBIT / "rabbitmq-server"
        server = str(script) if script.exists() else shutil.which("rabbitmq-server")
        if server is None or shutil.which("epmd") is None:
            raise BrokerMissing("rabbitmq-server is not installed (Debian: apt install rabbitmq-server)")
        super().__init__(directory)
        self._server = server
        self._ctl = str(Path(server).with_name("rabbitmqctl"))
        self._epmd: subprocess.Popen[bytes] | None = None
        self._vhosts: list[str] = []
        self._made = 0

    def choose_ports(self) -> None:
        self.port, self._dist_port, self._epmd_port = free_port(), free_port(), free_port()

    def _environment(self) -> dict[str, str]:
        home = self.directory
        own = {
            "HOME": home,
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": self._dist_port,
            "RABBITMQ_MNESIA_BASE": home / "mnesia",
            "RABBITMQ_LOG_BASE": home / "log",
            "RABBITMQ_PID_FILE": home / "rabbit.pid",
            "RABBITMQ_GENERATED_CONFIG_DIR": home / "config",
            "RABBITMQ_PLUGINS_EXPAND_DIR": home / "plugins",
            "RABBITMQ_SCHEMA_DIR": home / "schema",
            "RABBITMQ_ENABLED_PLUGINS_FILE": home / "enabled_plugins",
            "RABBITMQ_CONFIG_FILE": home / "rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": home / "none.config",
            "RABBITMQ_CONF_ENV_FILE": home / "none-env.conf",
            # Idle schedulers must sleep, not spin: the machine's few cores belong to the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}"
            " +sbwt none +sbwtdcpu none +sbwtdio none",
            "ERL_EPMD_PORT": self._epmd_port,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "LC_ALL": "C.UTF-8",
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))}
        return inherited | {key: str(value) for key, value in own.items()}

    def launch(self) -> subprocess.Popen[bytes]:
        home = self.directory
        home.chmod(0o755)
        (home / "enabled_plugins").write_text("[].\n")
        settings = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            "disk_free_limit.absolute = 50MB",
            "log.file.level = warning",
            "log.console = false",
        ]
        if not (home / "mnesia").exists():
            self._vhosts = self._names()
            (home / "definitions.json").write_text(json.dumps(self._definitions()))
            settings.append(f"load_definitions = {home / 'definitions.json'}")
        (home / "rabbitmq.conf").write_text("\n".join(settings) + "\n")
        environment = self._environment()
        epmd = str(shutil.which("epmd"))
        # Ours to start, so that it is ours to end: the server would leave it running.
        if self._epmd is None or self._epmd.poll() is not None:
            self._epmd = spawn([epmd, "-port", str(self._epmd_port)], log=home / "epmd.log", env=environment)
            wait_for(lambda: _accepts(self._epmd_port), 30, "epmd to listen")
        return spawn([self._server], log=self.log, env=environment)

    def _names(self) -> list[str]:
        first = self._made + 1
        self._made += self.BATCH
        # Last made, first used would reuse nothing; keep the order readable in logs instead.
        return [f"t{number}" for number in range(self._made, first - 1, -1)]

    def _definitions(self) -> dict[str, object]:
        places = ["/", *self._vhosts]
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        return {
            "users": [{"name": "guest", "password": "guest", "tags": "administrator"}],
            "vhosts": [{"name": place} for place in places],
            "permissions": [{"user": "guest", "vhost": place, **everything} for place in places],
        }

    def answers(self) -> bool:
        try:
            connection = self.connect()
        except (OSError, amqp.AMQPError):
            return False
        connection.close()
        return True

    def connect(self, vhost: str = "/") -> amqp.Connection:
        """Return an open connection, for looking behind a test's back."""
        connection = amqp.Connection(
            f"127.0.0.1:{self.port}", "guest", "guest", virtual_host=vhost, connect_timeout=5, read_timeout=30
        )
        connection.connect()
        return connection

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def fresh_url(self) -> str:
        if not self._vhosts:
            self._vhosts = self._names()
            self.evaluate(
                '[begin rabbit_vhost:add(V, <<"tests">>), rabbit_auth_backend_internal:set_permissions('
                '<<"guest">>, V, <<".*">>, <<".*">>, <<".*">>, <<"tests">>) end || V <- ['
                + ", ".join(f'<<"{name}">>' for name in self._vhosts)
                + "]], ok."
            )
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{self._vhosts.pop()}"

    def evaluate(self, erlang: str) -> str:
        """Run an Erlang expression in the server (takes about a second)."""
        return self.ctl("eval", erlang)

    def start_management(self) -> str:
        """Switch the management plugin on, on a free port; returns the URL of its API."""
        port = free_port()
        self.evaluate(f'application:set_env(rabbitmq_management, tcp_config, [{{port, {port}}}, {{ip, "127.0.0.1"}}]).')
        self._run(str(Path(self._ctl).with_name("rabbitmq-plugins")), "enable", "rabbitmq_management")
        wait_for(lambda: _accepts(port), 60, "the management API to listen")
        return f"http://127.0.0.1:{port}"

    def ctl(self, *args: str) -> str:
        """Run `rabbitmqctl` against this server; returns what it printed."""
        return self._run(self._ctl, *args)

    def _run(self, tool: str, *args: str) -> str:
        done = subprocess.run(
            [tool, "-q", *args], env=self._environment(), capture_output=True, text=True, timeout=90, check=False
        )
        if done.returncode:
            raise AssertionError(f"{Path(tool).name} {' '.join(args)[:200]} failed: {done.stdout}{done.stderr}")
        return done.stdout

    def close(self) -> None:
        self.kill()
        if self._epmd is not None:
            kill_all(members(self._epmd.pid))
            self._epmd.wait(10)
            self._epmd = None
        super().close()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
