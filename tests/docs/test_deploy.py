"""What lies under deploy/ says what the program understands, and is well formed as far as that can be told here."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from framework._cli.program import program
from framework._cli.session import CommandSession
from framework._config.health import health_address

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
UNITS = sorted(DEPLOY.glob("systemd/*.service"))
SUPERVISOR = DEPLOY / "supervisor" / "framework.conf"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
KUBERNETES = DEPLOY / "kubernetes" / "worker.yaml"


def understood(words):
    """Parse a command line as the program does, without running it; return the settings that it gives."""
    session = CommandSession(words)
    with click.Context(program, info_name="framework", obj=session) as parent:
        name, command, rest = program.resolve_command(parent, list(words))
        assert command is not None
        command.make_context(name, rest, parent)
    return session.flags


def unit(path):
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str
    parser.read(path)
    return parser


def document(kind):
    (found,) = [each for each in yaml.safe_load_all(KUBERNETES.read_text()) if each["kind"] == kind]
    return found


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_start_a_worker_that_notifies(path):
    service = unit(path)["Service"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    program, *words = shlex.split(service["ExecStart"].replace("$OPTIONS", "").replace("%%", "%"))
    assert program.endswith("/framework")
    assert set(understood(words)) == {"worker_hostname", "worker_loglevel"}
    assert service["KillMode"] == "mixed"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_units(path, tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    # It looks for the program and the user.
    text = path.read_text().replace("/srv/app/.venv/bin/framework", sys.executable).replace("User=worker", "User=root")
    copy = tmp_path / path.name.replace("@", "@web")
    copy.write_text(text)
    done = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.replace(str(copy), "")) == (0, "")


def test_the_template_and_the_single_unit_say_the_same():
    single, template = (dict(unit(path)["Service"]) for path in UNITS)
    assert template.pop("EnvironmentFile") == "-/etc/framework/%i.env"
    assert single.pop("ExecStart") != template.pop("ExecStart")
    assert single == template


def test_supervisord_hands_its_percent_signs_on():
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read(SUPERVISOR)
    section = parser["program:framework"]
    program, *words = shlex.split(section["command"] % {"program_name": "framework"})
    assert program.endswith("/framework")
    assert understood(words)["worker_hostname"] == ("--hostname", "worker@%h")
    assert (section["stopsignal"], section["killasgroup"]) == ("TERM", "true")


def test_the_image_runs_a_worker_as_process_1():
    text = re.sub(r"\\\n\s*", "", DOCKERFILE.read_text())
    steps = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    program, *words = json.loads(dict(steps)["ENTRYPOINT"])
    assert program == "framework"
    flags = understood(words)
    assert flags["worker_log_format"] == ("--log-json", "json")
    check = json.loads(dict(steps)["HEALTHCHECK"].partition(" CMD ")[2])
    assert check[:2] == ["framework", "health"]
    assert understood(check[1:]) == {}
    assert dict(steps)["ENV"].split()[-1] == "FRAMEWORK_WORKER_HEALTH=127.0.0.1:9808"
    users = [rest for word, rest in steps if word == "USER"]
    assert users == ["worker"]


def test_the_pods_run_that_image_and_are_probed_by_what_there_is():
    spec = document("Deployment")["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    assert document("PodDisruptionBudget")["spec"]["selector"] == spec["selector"]
    flags = understood(["worker", *container["args"]])
    assert set(flags) == {"worker_concurrency", "worker_health"}
    port = health_address(flags["worker_health"][1], "worker@pod").port
    assert container["ports"] == [{"name": "health", "containerPort": port}]
    assert spec["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    paths = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    # While the broker is away no worker is to be restarted: only readiness hears of it, and the start.
    assert paths == {
        "startupProbe": {"path": "/readyz", "port": "health"},
        "livenessProbe": {"path": "/livez", "port": "health"},
        "readinessProbe": {"path": "/readyz", "port": "health"},
    }
    assert pod["terminationGracePeriodSeconds"] >= 60
    (variable,) = container["env"]
    secret = document("Secret")
    assert variable["valueFrom"]["secretKeyRef"] == {"name": secret["metadata"]["name"], "key": "broker-url"}
    assert "broker-url" in secret["stringData"]
