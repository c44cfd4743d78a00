from __future__ import annotations

import pytest

from framework._boot.blueprint import Blueprint, StepState
from framework.api.step import Step
from framework.exceptions import ConfigError, GraphCycle, GraphError, StepFailed


class Recorder:
    def __init__(self):
        self.log = []

    def step(self, name, *requires, fail=None, fail_stop=False, absent=None, asks=(), policy="required"):
        log = self.log

        class Recorded(Step):
            def enabled(self, settings):
                return absent

            def start(self, board):
                log.append(f"start {name}")
                for wanted in asks:
                    board.get(wanted)
                if fail is not None:
                    raise fail
                board.put(name, name.upper())

            def stop(self, deadline):
                log.append(f"stop {name}")
                if fail_stop:
                    raise RuntimeError("stuck")

            def close(self):
                log.append(f"close {name}")

        Recorded.name = name
        Recorded.requires = requires
        Recorded.policy = policy
        return StepState(step=Recorded(), origin="acme 1.0")


@pytest.fixture
def rec():
    return Recorder()


def test_starts_in_order_and_stops_in_reverse(rec):
    graph = Blueprint("worker", [rec.step("b", "a"), rec.step("a"), rec.step("c", "b")], None)
    graph.start()
    assert graph.get("b") == "B"
    graph.stop(0)
    assert rec.log == [
        *("start a", "start b", "start c"),
        *("stop c", "stop b", "stop a"),
        *("close c", "close b", "close a"),
    ]


def test_a_failed_start_stops_what_had_started_and_only_that(rec):
    graph = Blueprint("worker", [rec.step("a"), rec.step("b", "a", fail=OSError("no")), rec.step("c", "b")], None)
    with pytest.raises(StepFailed, match=r"'b' of acme 1\.0 could not start: OSError: no"):
        graph.start()
    assert rec.log == ["start a", "start b", "stop b", "stop a", "close b", "close a"]
    graph.stop(0)
    assert rec.log[-1] == "close a"


def test_an_error_for_the_user_comes_through_as_it_is(rec):
    graph = Blueprint("worker", [rec.step("a", fail=ConfigError("mend it"))], None)
    with pytest.raises(ConfigError, match="mend it"):
        graph.start()


def test_stopping_twice_or_before_the_start_is_harmless(rec):
    graph = Blueprint("worker", [rec.step("a")], None)
    graph.stop(0)
    assert rec.log == []
    graph.start()
    graph.stop(0)
    graph.stop(0)
    assert rec.log == ["start a", "stop a", "close a"]


def test_a_step_that_cannot_stop_does_not_keep_the_others_running(rec, caplog):
    graph = Blueprint("worker", [rec.step("a"), rec.step("b", "a", fail_stop=True)], None)
    graph.start()
    graph.stop(0)
    assert rec.log[2:] == ["stop b", "stop a", "close b", "close a"]
    assert "The step 'b' of acme 1.0 failed to stop" in caplog.text


def test_an_absent_step_is_left_out_with_its_reason(rec):
    graph = Blueprint("worker", [rec.step("a", absent="not today"), rec.step("b")], None)
    graph.start()
    assert rec.log == ["start b"]
    assert [part.absent for part in graph.parts] == ["not today", None]


def test_a_cycle_is_refused_before_anything_starts(rec):
    with pytest.raises(GraphCycle):
        Blueprint("worker", [rec.step("a", "b"), rec.step("b", "a")], None)
    assert rec.log == []


def test_a_step_gets_only_what_it_requires(rec):
    graph = Blueprint("worker", [rec.step("a"), rec.step("b", asks=("a",))], None)
    with pytest.raises(GraphError, match="'b' asked for 'a' without requiring it"):
        graph.start()


def test_a_step_puts_only_what_it_provides():
    class Liar(Step):
        name = "liar"

        def start(self, board):
            board.put("truth", 1)

    with pytest.raises(GraphError, match="put 'truth' on the board without providing it"):
        Blueprint("worker", [StepState(step=Liar(), origin="acme 1.0")], None).start()


def test_what_is_given_is_on_the_board(rec):
    graph = Blueprint("worker", [rec.step("a", "app", asks=("app",))], None, {"app": 42})
    graph.start()
    assert graph.get("app") == 42


def test_a_step_that_may_be_missing_is_left_out_and_the_rest_starts(rec, caplog):
    parts = [rec.step("a"), rec.step("b", "a", fail=OSError("no"), policy="degrade"), rec.step("c", "a")]
    graph = Blueprint("worker", parts, None)
    graph.start()
    assert rec.log == ["start a", "start b", "stop b", "close b", "start c"]
    assert graph.degraded == {"b": "could not start: no"}
    assert "Continuing without the step 'b' of acme 1.0: no" in caplog.text
    graph.stop(0)
    assert rec.log[5:] == ["stop c", "stop a", "close c", "close a"]


def test_what_requires_a_step_that_was_left_out_is_left_out_too_or_fails(rec):
    lost = rec.step("b", fail=OSError("no"), policy="degrade")
    graph = Blueprint("worker", [lost, rec.step("c", "b", policy="degrade")], None)
    graph.start()
    assert set(graph.degraded) == {"b", "c"}
    strict = Blueprint("worker", [rec.step("b", fail=OSError("no"), policy="degrade"), rec.step("c", "b")], None)
    with pytest.raises(StepFailed, match=r"'c' of acme 1\.0 requires 'b', which could not start: no"):
        strict.start()
