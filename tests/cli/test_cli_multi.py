"""`framework multi`: what it makes of a command line, beside what Celery makes of it."""

from __future__ import annotations

import io
import json
import os
import socket

import pytest
from celery.bin.multi import MultiTool

from framework import exitcodes

HOST = socket.gethostname()


def celery(*args):
    """Return the lines that Celery's own `multi` prints for the same words, with our program in them."""
    out = io.StringIO()
    MultiTool(fh=out).execute_from_commandline(["multi", *args])
    return [line.rstrip().replace("-m celery", "-m framework") for line in out.getvalue().splitlines()]


@pytest.fixture
def multi(run):
    """Run `framework multi`; returns exit code, stdout, stderr."""
    return lambda *args: run("multi", *args)


@pytest.mark.acceptance(37, 38)
@pytest.mark.parametrize(
    "words",
    [
        "show 3 -A proj -l INFO -c 4 -c:1 10 -Q:1-3 a --pidfile=/run/x/%n.pid",
        "show 5 -A proj -c 3 -Q:1-3 images,video -Q:4,5 data -Q default -l:4,5 DEBUG",
        "show 5 -A proj -c:1 10 -Q:1-3 a -Q:4,5 b",
        "show foo bar baz -A proj -c 3 -c:foo,bar 10 --loglevel=INFO --pool=gevent -E -n x.com",
        "show 2 -A proj -- worker.prefetch_multiplier=1 --foo bar",
        "show Leslie@h1.com %h -A proj --hostname=abc -E --prefix=w --suffix=myhost",
        "show 2 --range-prefix=node -n foo.bar --workdir=/tmp",
        "show 1 -A proj -l info -c4 --pidfile=run/%n.pid",
        "show 2 --concurrency:1=10 --concurrency=3",
        "show 2 -Q %n --include=%h.%d -- %n",
        "show 2 -S %n.state --logfile=%d%i%I.log --verbose --nosplash --no-color",
        "show 3 -c:1-2,3 4 -E",
        "show 2 --logfile=~/%n.log --quiet",
        "names 3",
        "names a b@x --suffix=zzz",
        "names 2 --prefix=foo",
        "expand %n-%h-%d-%I-%i-%p-%% 2",
        f"get celery1@{HOST} 2 -c 5",
    ],
)
def test_it_prints_what_celery_prints(words, multi):
    code, out, err = multi(*words.split())
    assert (code, err) == (0, "")
    assert out.splitlines() == celery(*words.split())
    assert out


def options(out):
    """Return the words of each line of `show`, from ``worker`` on."""
    return [line.split(" worker ")[1].split() for line in out.splitlines()]


def test_spellings_of_one_option_are_one(multi):
    _, out, _ = multi("show", "web", "mail", "-Ec4", "--concurrency:web=9", "-c:mail", "2")
    web, mail = options(out)
    assert web[1:3] == ["-E", "--concurrency=9"]
    assert mail[1:4] == ["-E", "-c", "2"]


def test_a_value_may_stand_apart(multi):
    _, out, _ = multi("show", "web", "--pidfile", "w.pid", "--logfile", "%n.log", "-E", "worker.stop_timeout=3")
    (web,) = options(out)
    assert web[1:4] == ["--pidfile=w.pid", "--logfile=web.log", "-E"]
    assert web[-1] == "worker.stop_timeout=3"


def test_global_options_may_stand_before(run):
    _, out, _ = run("-A", "proj", "-b", "redis://h", "multi", "show", "1")
    assert " -m framework --app=proj --broker=redis://h worker --detach " in out


def test_get_takes_short_names_and_says_what_there_is(multi):
    assert multi("get", "celery2", "2")[1].startswith("-m framework worker --detach -n celery2@")
    code, out, err = multi("get", "zz", "web", "mail")
    assert (code, out, err) == (1, "", f"there is no node zz among web@{HOST}, mail@{HOST}\n")


@pytest.mark.parametrize("words", ["", "help", "--help", "start --help", "-h"])
def test_help(words, multi):
    code, out, _ = multi(*words.split())
    assert code == (0 if words else exitcodes.USAGE)
    for command in ("start", "stop", "stopwait", "restart", "kill", "status", "show", "names", "get", "expand"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("strt 2", "there is no command strt of multi; did you mean start?"),
        ("start", "no nodes: give names (web mail) or a number (3), or declare [nodes.<name>]"),
        ("show 0", "0 nodes: wanted 1 or more"),
        ("show 2 --conurrency=3", "no such option: --conurrency; did you mean --concurrency?"),
        ("show 2 -Z", "no such option: -Z"),
        ("show 2 -c", "option -c needs a value"),
        ("show 2 --task-events=1", "option --task-events takes no value"),
        ("show 2 -c:3 1", "option -c:3: there are the nodes 1 to 2"),
        ("show 2 -c:2-1 1", "option -c:2-1: there are the nodes 1 to 2"),
        ("show web mail -c:wb 1", "option -c:wb: there is no node wb; did you mean web?"),
        ("show web -A:web proj", "option -A is for all nodes: write it without :web"),
        ("show web web", f"the node web@{HOST} is named twice"),
        ("get", "framework multi get needs the name of a node"),
        ("expand", "framework multi expand needs a template, as in %n.log"),
    ],
)
def test_what_is_wrong_is_said_in_words(words, text, multi):
    code, out, err = multi(*words.split())
    assert (code, out) == (exitcodes.USAGE, "")
    assert err.startswith(f"framework: error: {text}")


NODES = """
[nodes.web]
concurrency = 1
queues = ["web", "celery"]
pidfile = "%n-%h.pid"
mingle = false
hostname = "example.com"

[nodes.mail]
pool = "threads"
stop_timeout = 3.5
send_task_events = true
gossip = true
"""


def test_nodes_of_the_config_file(multi, tmp_path):
    (tmp_path / "framework.toml").write_text(NODES)
    _, out, _ = multi("show", "-c:mail", "7")
    web, mail = options(out)
    assert web[1:] == [
        "--concurrency=1",
        "--queues=web,celery",
        "--pidfile=%n-%h.pid",
        "--without-mingle",
        "-n",
        "web@example.com",
        "--logfile=/var/log/celery/web%I.log",
        web[-1],
    ]
    assert mail[1:4] == ["--pool=threads", "--task-events", "-c"]
    assert mail[-2:] == ["worker.stop_timeout=3.5", "worker.gossip=true"]
    assert multi("names", "web")[1] == "web@example.com\n"
    _, out, _ = multi("show", "web", "-c", "5")
    assert options(out)[0][1:3] == ["-c", "5"]


def test_files_that_the_config_file_names_are_left_to_the_worker(multi, tmp_path):
    (tmp_path / "framework.toml").write_text('[worker]\npidfile = "%n.pid"\nlogfile = "%n%I.log"\n')
    _, out, _ = multi("show", "1")
    assert options(out)[0][1:3] == ["-n", f"celery1@{HOST}"]
    assert "file=" not in out
    (tmp_path / "celery1.pid").write_text(str(os.getppid()))
    code, out, _ = multi("status", "1", "--json")
    assert code == exitcodes.INCOMPLETE
    assert json.loads(out)[f"celery1@{HOST}"]["pid"] == os.getppid()


def test_status_of_nodes_that_are_down(multi):
    code, out, _ = multi("status", "2", "--pidfile=%n.pid")
    assert code == exitcodes.UNAVAILABLE
    assert [line.split() for line in out.splitlines()[1:]] == [
        [f"celery{number}@{HOST}", "-", "down", "-"] for number in (1, 2)
    ]


@pytest.mark.parametrize("command", ["stop", "stopwait", "stop_verify", "kill"])
def test_stopping_what_is_down(command, multi):
    code, out, _ = multi(command, "2", "--pidfile=%n.pid", "--nosplash")
    assert (code, out) == (0, f"> celery1@{HOST}: DOWN\n> celery2@{HOST}: DOWN\n")
    assert multi(command, "2", "--pidfile=%n.pid", "-q")[1] == ""
    assert multi(command, "2", "--pidfile=%n.pid")[1].startswith("framework multi v")


def test_a_directory_that_cannot_be_made(multi):
    code, out, err = multi("start", "1", "--pidfile=/dev/null/x/%n.pid", "--logfile=%n.log")
    assert code == exitcodes.CANT_CREATE
    assert f"> celery1@{HOST}: FAILED\n" in out
    assert "the directory /dev/null/x cannot be created: Not a directory; give writable paths" in err
