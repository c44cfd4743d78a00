"""The sub-commands that talk to a broker, on the embedded one: the starter project from `init` to a clean stop."""

import json

import pytest

from framework import exitcodes
from support import workers


@pytest.fixture
def project(tmp_path):
    """The starter project."""
    directory = tmp_path / "starter"
    done = workers.run_command("init", "starter", app_dir=tmp_path)
    assert done.returncode == 0, done.stderr
    with (directory / "tasks.py").open("a") as stream:
        stream.write("\n\n@app.task\ndef fail(text):\n    raise ValueError(text)\n")
    return directory


@pytest.fixture
def run(project):
    """Run `framework <args>` in the project; returns exit code, stdout, stderr."""

    def run(*args):
        done = workers.run_command(*args, app_dir=project, timeout=30)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def worker(project, start_worker):
    """A worker of the project."""
    return start_worker("-P", "threads", "-c", "2", "-n", "w1@here", app="", app_dir=project)


def test_the_starter_project_runs(run, worker):
    code, out, err = run("call", "tasks.add", "--args", "[2, 3]", "--wait", "--timeout", "20")
    assert (code, out) == (0, "5\n"), err
    task_id = err.strip()
    assert run("result", task_id)[:2] == (0, "5\n")
    code, out, _ = run("result", task_id, "--json")
    assert json.loads(out) == {"id": task_id, "status": "SUCCESS", "result": 5, "traceback": None}
    assert worker.stop() == 0


def test_a_failure_is_printed_and_is_the_exit_code(run, worker):
    code, out, err = run("call", "tasks.fail", "-k", '{"text": "no luck"}', "--wait", "--timeout", "20")
    assert (code, out) == (1, "")
    assert "FAILURE: ValueError: no luck" in err
    task_id = err.split()[0]
    code, _, err = run("result", task_id)
    assert code == 1
    code, _, err = run("result", task_id, "--json", "--traceback")
    assert code == 1


def test_remote_control(run, worker):
    there = ("-d", "w1@here")  # one reply is all there will be: nobody waits for more
    code, out, _ = run("status", "-t", "0.3")
    assert (code, out) == (0, "->  w1@here: OK\n\n1 node online.\n")
    code, out, _ = run("inspect", "ping", *there)
    assert (code, out) == (0, "->  w1@here: OK\n        pong\n\n1 node online.\n")
    code, out, _ = run("inspect", "registered", *there)
    assert "        * tasks.add" in out
    code, out, _ = run("inspect", "active", *there)
    assert "        - empty -" in out
    code, out, _ = run("inspect", "stats", "--json", *there)
    assert json.loads(out)["w1@here"]["pid"] == worker.pid
    code, out, _ = run("inspect", "active_queues", "--json", *there)
    assert json.loads(out)["w1@here"][0]["name"] == "celery"
    code, out, _ = run("control", "shutdown", *there)
    assert (code, out.splitlines()[0]) == (0, "->  w1@here: OK")
    assert worker.wait() == 0


def test_without_a_worker(run):
    code, out, _ = run("queues", "--json")
    assert code == 0
    assert [queue["queue"] for queue in json.loads(out)] == ["celery"]
    code, out, _ = run("call", "tasks.add", "-a", "[1, 2]")
    task_id = out.strip()
    assert code == 0
    code, out, _ = run("call", "tasks.add", "-a", "[1, 2]", "--json")
    assert json.loads(out).keys() == {"id"}
    code, out, _ = run("queues")
    heading, row = (line.split() for line in out.splitlines())
    assert dict(zip(heading, row, strict=True)) == {"queue": "celery", "waiting": "2", "parked": "0"}
    code, _, err = run("result", task_id, "--timeout", "0.1")
    assert code == exitcodes.UNAVAILABLE
    assert f"no result of {task_id} within 0.1 s; its state is PENDING" in err
    code, _, err = run("status", "-t", "0.1")
    assert (code, err) == (exitcodes.UNAVAILABLE, "Error: No nodes replied within time constraint\n")
    code, _, err = run("purge")  # nobody is there to say yes
    assert code == exitcodes.INTERRUPTED
    code, out, _ = run("purge", "-f")
    assert (code, out) == (0, "Purged 2 messages from 1 known task queue.\n")
    code, out, _ = run("purge", "-f")
    assert (code, out) == (0, "No messages purged from 1 queue\n")
    code, out, _ = run("purge", "-f", "--json", "-Q", "celery")
    assert json.loads(out) == {"purged": 0, "queues": {"celery": 0}}


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["inspect", "pings"], "there is no inspect command pings; did you mean ping?"),
        (["inspect", "shutdown"], "there is no inspect command shutdown (framework inspect --list shows all)"),
        (["inspect", "ping", "x"], "unexpected argument x; the command is ping"),
        (["call", "x", "-a", "2"], "'2' is not a JSON list; wanted something like '[2, 3]'"),
        (["call", "x", "-k", "[2]"], "'[2]' is not a JSON object; wanted something like '{\"x\": 2}'"),
        (["call", "x", "--eta", "soon"], "'soon' is not a date; wanted something like 2030-01-31T12:00:00Z"),
        (["call", "x", "--expires", "soon"], "'soon' is not seconds or a date"),
    ],
)
def test_a_wrong_word(run, args, text):
    code, _, err = run(*args)
    assert code == exitcodes.USAGE
    assert text in err


def test_results_that_are_not_kept(run, project):
    (project / "framework.toml").write_text("app = 'tasks'\n[result]\nbackend = 'none://'\n")
    code, _, err = run("result", "some-id")
    assert code == exitcodes.CONFIG
    assert "no result store is configured: set backend under [result]" in err


def test_a_worker_purges_first(run, project, start_worker):
    for _ in range(3):
        run("call", "tasks.add", "-a", "[1, 2]")
    worker = start_worker("-P", "threads", "--purge", app="", app_dir=project)
    assert "purge: Erased 3 messages from the queues." in worker.output
    assert worker.stop() == 0


def test_modules_to_include(run, project, start_worker):
    (project / "more.py").write_text("from tasks import app\n\n\n@app.task\ndef double(x):\n    return 2 * x\n")
    start_worker("-P", "threads", "-I", "more", app="", app_dir=project)
    assert run("call", "more.double", "-a", "[4]", "--wait", "--timeout", "20")[1] == "8\n"


def test_the_check_finds_nothing_wrong(run):
    code, out, err = run("config", "check")
    assert code == 0, err
    assert out.startswith("The configuration is right (")


@pytest.mark.parametrize("form", ["text", "dot", "mermaid", "svg"])
def test_the_graph_is_drawn(run, form):
    code, out, err = run("graph", "--format", form)
    assert code == 0, err
    assert {"text": "worker graph", "dot": "digraph", "mermaid": "flowchart", "svg": "<svg"}[form] in out


def test_the_graph_is_explained_and_written(run, project):
    code, out, _ = run("graph", "consumer", "--explain")
    assert code == 0
    assert "consumer graph" in out
    assert "worker graph" not in out
    assert run("graph", "-f", "svg", "-o", "graph.svg")[:2] == (0, "")
    assert (project / "graph.svg").read_text().startswith("<svg")
    assert run("graph", "-o", "no/graph.svg")[0] == exitcodes.CANT_CREATE


@pytest.mark.parametrize(
    ("backend", "reason"), [("none://", "results are not kept"), ("redis://127.0.0.1:1/0", "cannot be reached")]
)
def test_a_call_whose_result_cannot_be_read_is_not_sent(project, run, backend, reason):
    (project / "app.py").write_text(
        f"from framework import App\n\napp = App('app', broker='sqlite:///queue.db', backend={backend!r})\n"
    )
    code, out, err = run("-A", "app", "call", "tasks.add", "-a", "[1, 2]", "--wait", "--timeout", "1")
    assert (code != 0, out) == (True, ""), err
    assert reason in err
    code, out, err = run("-A", "app", "queues", "--json")
    assert [queue.get("waiting") or 0 for queue in json.loads(out)] == [0], (out, err)
