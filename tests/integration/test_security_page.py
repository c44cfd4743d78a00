"""The examples of docs/security.md, as they stand there, but for ports, database numbers and paths."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import amqp
import pytest
import redis

from support import ledger, workers
from support.brokers import PrivateRabbit
from support.held import LONG
from support.rediskinds import TlsRedis
from support.wait import wait_for

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
TASKS = """
import os

from framework import App
from framework.exceptions import Reject
from framework.testing import ledger

PATH = os.environ["TEST_LEDGER"]
app = App("shop")

@app.task(ignore_result=True)
def record(number):
    ledger.append(PATH, number)

@app.task
def total(numbers):
    return sum(numbers)

@app.task
def add(one, two):
    return one + two

@app.task(bind=True)
def again(self, number):
    if self.request.retries == 0:
        raise self.retry(countdown=2)
    ledger.append(PATH, number)

@app.task(acks_late=True, ignore_result=True)
def turned_away():
    raise Reject("not today")
"""
#: A client with the page's configuration. `RESULTS` is replaced by more to do.
PROGRAM = """
from framework import chord
from tasks import add, again, app, record, total, turned_away

for number in range(10):
    record.delay(number)
app.send_many(record.si(number) for number in range(10, 40))
record.apply_async((40,), countdown=2)
again.delay(41)
turned_away.delay()
assert add.delay(2, 3).get(timeout=60) == 5
RESULTS
assert app.control.ping(timeout=60, limit=1) == [{"one@here": {"ok": "pong"}}]
[reply] = app.control.revoke("never", reply=True, timeout=60, limit=1)
assert "flagged as revoked" in reply["one@here"]["ok"], reply
"""
CHORD = "assert chord([add.s(n, n) for n in range(5)], total.s()).apply_async().get(timeout=60) == 20"


def blocks(heading: str, language: str = "") -> list[str]:
    """Return the code blocks of one section."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)


@pytest.fixture
def shop(tmp_path: Path) -> Any:
    """Begin a worker in a directory with this configuration, and give it what a shop has to do."""
    here = tmp_path / "shop"
    here.mkdir()
    (here / "tasks.py").write_text(TASKS)
    path = tmp_path / "ledger"
    environment = {"TEST_LEDGER": str(path)}

    def run(config: str, results: str = CHORD) -> None:
        (here / "framework.toml").write_text(f"{config}\n[worker]\neta_park_after = 1\n")
        options = ("-P", "threads", "-c", "2", "-E", "-n", "one@here")
        program = [sys.executable, "-c", PROGRAM.replace("RESULTS", results)]
        with workers.start_worker(here, *options, app="tasks", env=environment) as worker:
            worker.wait_ready()
            done = subprocess.run(
                program, cwd=here, env=workers.environment(environment), capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr + worker.output
            expected = Counter(str(number) for number in range(42))
            wait_for(lambda: ledger.read(path) == expected, LONG, lambda: str(ledger.read(path)) + worker.output)
            shown = workers.run_command("dlq", "list", app_dir=here, env=environment)
            assert "tasks.turned_away" in shown.stdout, shown
            assert worker.stop() == 0
            # Nothing that it needed was denied.
            assert not worker.lines(r"refuse|denied|does not allow|NOPERM|Traceback"), worker.output

    return run


def test_the_account_of_redis(shop, redis_server, redis_url):
    """It can do what is needed, and nothing that concerns others."""
    place = redis_url.partition("://")[2]
    db = place.rpartition("/")[2]
    [line] = [each for each in blocks("Redis") if each.startswith("ACL")]
    [config] = blocks("Redis", "toml")
    with redis_server.client() as server:
        server.execute_command(*line.replace("/0.", f"/{db}.").split(), "+select")
        try:
            shop(config.replace("127.0.0.1:6379/0", place))
            account = redis.Redis.from_url(f"redis://shop:a-long-password@{place}")
            for command in (
                "get other",
                "lpush celery x",
                "publish other x",
                "psubscribe *",
                "subscribe celery.pidbox",
                "keys *",
                "flushdb",
                "flushall",
                "config get requirepass",
                "config set dir /tmp",
                "client list",
                "client kill TYPE normal",
                "acl list",
                "monitor",
                "replicaof 127.0.0.1 1",
                "module list",
                "shutdown",
                "save",
                "script flush",
                "function list",
            ):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    account.execute_command(*command.split())
            with pytest.raises(redis.exceptions.ResponseError, match=r"(?i)can.t access|permission"):
                account.eval("return redis.call('get', 'other')", 0)
            account.close()
        finally:
            server.execute_command("ACL", "DELUSER", "shop")


def login(server: PrivateRabbit, vhost: str) -> amqp.Connection:
    connection = amqp.Connection(f"127.0.0.1:{server.port}", "shop", "a-long-password", virtual_host=vhost)
    connection.connect()
    return connection


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in text.splitlines()]


def test_a_virtual_host_of_its_own(shop, rabbit_server):
    for words in commands(blocks("RabbitMQ")[0]):
        rabbit_server.ctl(*words)
    url = f"amqp://shop:a-long-password@127.0.0.1:{rabbit_server.port}/shop"
    shop(f'[broker]\nurl = "{url}"\n[result]\nbackend = "rpc://"\n', results="")
    with pytest.raises(amqp.NotAllowed):
        login(rabbit_server, "/")


def test_a_virtual_host_that_others_use_too(shop, rabbit_server):
    [setting] = [each for each in blocks("RabbitMQ") if "-p shared" in each]
    rabbit_server.ctl("add_vhost", "shared")
    rabbit_server.ctl("set_permissions", "-p", "shared", "guest", ".*", ".*", ".*")
    if "\nshop\t" not in rabbit_server.ctl("list_users"):
        rabbit_server.ctl("add_user", "shop", "a-long-password")
    for words in commands(setting):
        rabbit_server.ctl(*words)
    [config] = blocks("RabbitMQ", "toml")
    shop(config.replace(":5672", f":{rabbit_server.port}"), results="")
    with rabbit_server.connect("shared") as guest:
        others = guest.channel()
        others.queue_declare("celery", durable=True, auto_delete=False)
        others.queue_declare("framework.parked.celery.3", durable=True, auto_delete=False)
        others.exchange_declare("celery.pidbox", "fanout", auto_delete=False)
    connection = login(rabbit_server, "shared")
    for refused in (
        lambda channel: channel.basic_get("celery"),
        lambda channel: channel.queue_purge("celery"),
        lambda channel: channel.queue_delete("celery"),
        lambda channel: channel.basic_get("framework.parked.celery.3"),
        lambda channel: channel.queue_declare("other", auto_delete=False),
        lambda channel: channel.exchange_declare("celeryev", "topic", auto_delete=False),
        lambda channel: channel.queue_bind("shop", "celery.pidbox"),
    ):
        with pytest.raises(amqp.AccessRefused):
            refused(connection.channel())
    connection.close()


def test_tls(shop, private_server):
    server = private_server(TlsRedis)
    [config] = blocks("TLS", "toml")
    config = config.replace(":6379", f":{server.port}").replace("/etc/ssl/redis-ca.pem", str(server.certificate))
    [url] = re.findall(r'"(rediss.*)"', config)
    shop(f'{config}[result]\nbackend = "{url}"\n')


@pytest.mark.parametrize("index", [0, 1], ids=["allow", "secret_file"])
def test_remote_control(tmp_path, place, redis_url, index):
    """The tables say what the text beside them says."""
    (tmp_path / "control").write_text("sixteen characters, or more\n")
    config = blocks("Remote control", "toml")[index].replace("/run/secrets", str(tmp_path))
    here = place(redis_url, config)
    with workers.start_worker(here.path, "-P", "solo", "-n", "one@here", app="tasks") as worker:
        worker.wait_ready()
        assert "pong" in here.ok("inspect", "ping")
        done = here.run("control", "rate_limit", "tasks.add", "1/s")
        assert (done.returncode == 0) == (index == 1), done
        assert ("is refused" in done.stdout + done.stderr) == (index == 0)
        (here.path / "framework.toml").write_text(f'app = "tasks"\n[broker]\nurl = "{redis_url}"\n')
        done = here.run("control", "rate_limit", "tasks.add", "1/s")
        assert done.returncode != 0
        assert ("not allowed", "not signed")[index] in here.ok("inspect", "stats")
        (here.path / "framework.toml").write_text(f'app = "tasks"\n[broker]\nurl = "{redis_url}"\n{config}')
        shown = here.ok("config", "show") + here.ok("report") + here.ok("inspect", "conf")
        assert "sixteen characters" not in shown
        assert worker.stop() == 0
