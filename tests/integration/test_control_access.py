"""Remote control that allows some commands only, and signed commands: on every broker, for our clients and Celery's."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from framework import exitcodes
from framework.message import Outgoing
from framework.wire import control_signature
from framework.wire.serialization import encode
from support import workers
from support.wait import wait_for

SECRET = "correct horse battery staple"
#: Far beyond what a wait may last that ends by itself.
LONG = 60.0
NODE = "one@here"


@pytest.fixture
def worker(broker_url, start_worker):
    """Start a worker with these settings."""
    return lambda **conf: start_worker("-P", "solo", "-n", NODE, broker=broker_url, conf=conf)


def answer(replies: Any) -> Any:
    [reply] = replies
    return reply[NODE]


def refused(app: Any) -> dict[str, int]:
    return answer(app.control.broadcast("stats", reply=True, limit=1, timeout=LONG))["control"]["refused"]


def test_only_what_is_allowed(broker_url, client, celery_client, worker):
    """The others are refused in words, for every client, and counted; what is logged is one line for each command."""
    one = worker(control_allow=["ping", "inspect:*"])
    app, celery = client(broker_url), None if broker_url.startswith("sqlite") else celery_client(broker_url)
    asked = {"reply": True, "limit": 1, "timeout": LONG}
    for each in filter(None, (app, celery)):
        assert answer(each.control.ping(timeout=LONG, limit=1)) == {"ok": "pong"}
        assert answer(each.control.broadcast("active", **asked)) == []
        # By its older name, too.
        assert answer(each.control.broadcast("dump_active", **asked)) == []
        for command in ("shutdown", "pool_grow", "rate_limit", "enable_events"):
            said = answer(each.control.broadcast(command, **asked))["error"]
            assert said == f"{command} is refused: `allow` under [control] is ['ping', 'inspect:*']"
    clients = 1 if celery is None else 2
    assert refused(app) == {"not allowed": 4 * clients}
    assert len(one.lines("Control request .* is refused")) == 4
    env = workers.app_environment(broker=broker_url)
    done = workers.run_command("-A", "proj", "control", "shutdown", env=env)
    assert (done.returncode != 0, "shutdown is refused" in done.stdout + done.stderr) == (True, True), done
    assert one.stop() == 0


def test_what_revokes_by_a_greeting_is_refused_as_well(broker_url, client, worker):
    worker(control_allow=["inspect:*"])
    app = client(broker_url)
    asked = {"reply": True, "limit": 1, "timeout": LONG}
    assert answer(app.control.broadcast("hello", {"from_node": "x@y", "revoked": ["an-id"]}, **asked))["revoked"] == []
    assert answer(app.control.broadcast("revoked", **asked)) == []
    assert refused(app) == {"not allowed": 1}


def test_changes_need_a_signature(broker_url, client, worker):
    """Who has the secret may do all; who has not, or has another one, may look."""
    one = worker(control_secret=SECRET)
    knowing, ignorant, wrong = (
        client(broker_url, control_secret=secret) for secret in (SECRET, None, "another secret of length")
    )
    asked = {"reply": True, "limit": 1, "timeout": LONG}
    assert answer(knowing.control.revoke("known", **asked)) == {"ok": "tasks {'known'} flagged as revoked"}
    for each, why in ((ignorant, "it is not signed"), (wrong, "its signature is wrong")):
        assert answer(each.control.ping(timeout=LONG, limit=1)) == {"ok": "pong"}
        said = answer(each.control.revoke("unknown", **asked))["error"]
        assert said.startswith(f"revoke is refused: {why}"), said
        hello = answer(each.control.broadcast("hello", {"from_node": "x@y", "revoked": ["unknown"]}, **asked))
        assert hello["revoked"] == ["known"]
    assert answer(knowing.control.broadcast("revoked", **asked)) == ["known"]
    assert refused(knowing) == {"not signed": 4}
    shown = json.dumps(answer(ignorant.control.broadcast("conf", {"with_defaults": True}, **asked)))
    assert SECRET not in shown
    # Without a reply, too.
    knowing.control.broadcast("shutdown")
    assert one.wait(timeout=LONG) == 0
    assert SECRET not in one.output


def test_workers_with_the_secret_tell_each_other(broker_url, client, worker, start_worker):
    """A worker that starts later learns what was revoked, and one that was there learns from it."""
    worker(control_secret=SECRET)
    app = client(broker_url, control_secret=SECRET)
    assert app.control.revoke("early", reply=True, limit=1, timeout=LONG)
    start_worker("-P", "solo", "-n", "two@here", broker=broker_url, conf={"control_secret": SECRET})

    def known() -> list[Any]:
        return app.control.broadcast("revoked", reply=True, limit=2, timeout=LONG)

    wait_for(lambda: sorted(known(), key=str) == [{NODE: ["early"]}, {"two@here": ["early"]}], LONG, known)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda header: {**header, "time": header["time"] - 1}, "its signature is wrong"),
        (lambda header: {**header, "nonce": "0" * 32}, "its signature is wrong"),
        (lambda header: {**header, "hmac": header["hmac"].upper()}, "its signature is wrong"),
        (lambda header: {**header, "hmac": "é"}, "its signature cannot be read"),
        (lambda header: {**header, "time": "soon"}, "its signature cannot be read"),
        (lambda header: list(header.values()), "its signature cannot be read"),
        (lambda header: header, "its signature was used before"),
    ],
)
def test_a_request_that_was_listened_to_is_of_no_use(change, why):
    """Nothing of it can be changed, and it is taken once."""
    signatures = control_signature.Signatures(SECRET, "celery.pidbox")
    message = signed("celery.pidbox")
    assert signatures.fault(message) == ""
    message.headers[control_signature.SIGNATURE] = change(message.headers[control_signature.SIGNATURE])
    assert signatures.fault(message).startswith(why)


@pytest.mark.parametrize("away", [-3600, -61, 61, 3600])
def test_of_another_time(monkeypatch, away):
    signatures = control_signature.Signatures(SECRET, "celery.pidbox")
    when = time.time()
    monkeypatch.setattr(control_signature.time, "time", lambda: when + away)
    message = signed("celery.pidbox")
    monkeypatch.setattr(control_signature.time, "time", lambda: when)
    assert signatures.fault(message).startswith("its signature is too old or from the future")


def test_for_other_workers():
    """Workers with another exchange and the same secret do not take it."""
    others = control_signature.Signatures(SECRET, "b.pidbox")
    assert others.fault(signed("a.pidbox")).startswith("its signature is wrong")


def signed(exchange: str) -> Any:
    body = encode({"method": "revoke", "arguments": {"task_id": "x"}, "destination": None})[2]
    return Outgoing(body=body, headers=dict(control_signature.sign(SECRET, exchange, body)))


@pytest.mark.parametrize(
    ("settings", "text"),
    [('allow = ["insepct:*"]', "allow"), ('allow = ["ping pong"]', "allow"), ('secret = "short-secret"', "secret")],
)
def test_settings_that_cannot_be_meant(tmp_path, settings, text):
    (tmp_path / "framework.toml").write_text(f"[control]\n{settings}\n")
    done = workers.run_command("config", "check", app_dir=tmp_path)
    assert done.returncode == exitcodes.CONFIG
    said = done.stdout + done.stderr
    assert f"[control] {text}" in said
    assert "short-secret" not in said


def test_an_allowed_command_that_does_not_exist_is_named(tmp_path, start_worker, sqlite_url):
    start_worker("-P", "solo", broker=sqlite_url, conf={"control_allow": ["pong", "ping"]}).wait_line(
        r"`allow` under \[control\] has 'pong', which is no command of this worker", timeout=LONG
    )
