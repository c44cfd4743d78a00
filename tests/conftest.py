"""Fixtures that every test may ask for.

1. Brokers: `redis_server` and `rabbit_server` are private and live as long as the session, started by the first test
   that asks; `redis_url`, `amqp_url`, `sqlite_url` are an empty place of the test's own; `broker_url` is each in turn.
   `private_server` starts one that the test may stop, `module_rabbit` is one that all tests of a module may.
2. `backend_url`: the result store that goes with `broker_url`.
3. Workers: `start_worker`, `start_celery_worker` start real processes and clean up after the test.
4. `place` makes a user's directory, for workers in the background.
5. Clients: `client` is ours, `celery_client` the real Celery.
6. A server that is not installed skips the test at home and fails it in CI.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest

from support import workers
from support.brokers import BrokerMissing, PrivateRabbit, PrivateRedis, PrivateServer
from support.nodes import Place

Server = TypeVar("Server", bound=PrivateServer)
StartWorker = Callable[..., workers.WorkerProcess]

# How long an example takes says more about the machine than about what is tested.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")

# A developer's shell must not configure the tests.
for _name in [name for name in os.environ if name.startswith(("FRAMEWORK_", "CELERY"))]:
    del os.environ[_name]
# Nor must the way in which it was called: what runs in the background of a script, or under nohup, has these ignored,
# and hands that on to every worker.
for _signum, _handler in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, _handler)


@pytest.fixture(scope="module", autouse=True)
def _hang_up() -> Iterator[None]:
    """Disconnect what Celery's client has left open, in circles that would be collected in the middle of a later test.

    Kombu keeps the connection to Redis over which it said PING, and one to RabbitMQ that its pool has forgotten.
    """
    yield
    redis, amqp = sys.modules.get("redis.connection"), sys.modules.get("amqp.transport")
    if redis is None and amqp is None:
        return
    for each in gc.get_objects():
        if redis is not None and issubclass(type(each), redis.AbstractConnection):
            each.disconnect()
        elif amqp is not None and issubclass(type(each), amqp._AbstractTransport) and each.sock is not None:
            each.sock.close()


def _serve(make: Callable[[], Server]) -> Iterator[Server]:
    try:
        server = make()
    except BrokerMissing as missing:
        if os.environ.get("CI"):
            pytest.fail(f"{missing}: in CI every broker must be there")
        pytest.skip(str(missing))
    try:
        server.start()
        yield server
    finally:
        server.close()


# ---------------------------------------------------------------- brokers


@pytest.fixture(scope="session")
def redis_server() -> Iterator[PrivateRedis]:
    """The session's Redis. Do not stop it: a test that needs that makes a `PrivateRedis` of its own."""
    yield from _serve(PrivateRedis)


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[PrivateRabbit]:
    """The session's RabbitMQ. Do not stop it: a test that needs that makes a `PrivateRabbit` of its own."""
    yield from _serve(PrivateRabbit)


@pytest.fixture(scope="module")
def module_rabbit() -> Iterator[PrivateRabbit]:
    """A RabbitMQ for the tests of one module, which may stop it and start it again."""
    yield from _serve(PrivateRabbit)


@pytest.fixture
def private_server() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Start a server of the test's own, which it may stop: `private_server(PrivateRedis)`; ended with the test."""
    with contextlib.ExitStack() as stack:
        serve = contextlib.contextmanager(_serve)
        yield lambda make: stack.enter_context(serve(make))


@pytest.fixture
def redis_url(redis_server: PrivateRedis) -> str:
    """An empty Redis database."""
    return redis_server.fresh_url()


@pytest.fixture
def amqp_url(rabbit_server: PrivateRabbit) -> str:
    """An empty virtual host."""
    return rabbit_server.fresh_url()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A broker file that does not exist yet."""
    return f"sqlite:///{tmp_path}/broker.db"


@pytest.fixture(params=["sqlite", "redis", "amqp"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """Each broker in turn."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def backend_url(broker_url: str) -> str:
    """The result store beside `broker_url`: the broker itself, by its own means."""
    return "rpc://" if broker_url.startswith("amqp") else broker_url


# ---------------------------------------------------------------- workers


def _starter(start: StartWorker, directory: Path) -> Iterator[StartWorker]:
    started: list[workers.WorkerProcess] = []

    def begin(
        *args: str,
        broker: str | None = None,
        backend: str | None = None,
        ledger: str | os.PathLike[str] | None = None,
        conf: dict[str, Any] | None = None,
        app: str | None = None,
        app_dir: str | os.PathLike[str] | None = None,
        env: dict[str, str] | None = None,
        ready: bool = True,
        through: Sequence[str] = (),
    ) -> workers.WorkerProcess:
        variables = workers.app_environment(
            broker=broker, backend=backend, ledger=ledger, conf=json.dumps(conf) if conf else None
        )
        variables |= env or {}
        chosen: dict[str, Any] = {} if app is None else {"app": app}
        if through:
            chosen["through"] = through
        log = directory / f"worker-{start.__name__}-{len(started)}.log"
        worker = start(app_dir, *args, env=variables, log=log, **chosen)
        started.append(worker)
        return worker.wait_ready() if ready else worker

    yield begin
    for worker in started:
        worker.close()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Start our worker: `start_worker("-c", "2", broker=…, backend=…, ledger=…, conf={…})`; waits until it is ready."""
    yield from _starter(workers.start_worker, tmp_path)


@pytest.fixture
def start_celery_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Start a real Celery worker, with the arguments of `start_worker`."""
    yield from _starter(workers.start_celery_worker, tmp_path)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Callable[..., Place]]:
    """Make a directory as a user has one: `place(broker, config="")`; what runs there is killed after the test."""
    made: list[Place] = []

    def make(broker: str, config: str = "") -> Place:
        made.append(Place(tmp_path / "place", broker, config))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def ledger_path(tmp_path: Path) -> Path:
    """A ledger that has not been begun."""
    return tmp_path / "ledger"


# ---------------------------------------------------------------- clients


@pytest.fixture
def client() -> Iterator[Callable[..., Any]]:
    """Make a client of ours with the sample tasks: `client(broker, backend, **settings)`; closed after the test."""
    from support import proj

    yield from _clients(proj.make_app, contextlib.closing)


@pytest.fixture
def celery_client() -> Iterator[Callable[..., Any]]:
    """Make a real Celery client with the sample tasks; also the way to `inspect` our workers from outside."""
    from support import celeryproj

    yield from _clients(celeryproj.make_app, celeryproj.closing)


def _clients(make_app: Callable[..., Any], closing: Callable[[Any], Any]) -> Iterator[Callable[..., Any]]:
    with contextlib.ExitStack() as stack:

        def make(broker: str, backend: str | None = None, **conf: Any) -> Any:
            return stack.enter_context(closing(make_app(broker, backend, **conf)))

        yield make
