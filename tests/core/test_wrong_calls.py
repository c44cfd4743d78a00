"""What is said of calls that cannot be meant: one sentence, where the call is made, with what to write instead."""

from __future__ import annotations

import pytest

from framework import App, chain, chord, group, xmap
from framework.exceptions import ConfigError, FrameworkError, Retry


@pytest.fixture(scope="module")
def app():
    app = App("proj", broker="memory://wrong-calls", backend="none://")

    @app.task(name="proj.add", typing=False)
    def add(x, y):
        return x + y

    yield app
    app.close()


CALLS = {
    "a callback that is no signature": (lambda a, add: add.apply_async((1, 2), link=5), TypeError, r"add\.s\(1\)"),
    "a task as its callback": (lambda a, add: add.apply_async((1, 2), link_error=add), TypeError, "takes signatures"),
    "keyword arguments": (lambda a, add: add.apply_async((1, 2), {"x"}), TypeError, "must be a mapping"),
    "headers": (lambda a, add: add.apply_async((1, 2), headers="x"), TypeError, "must be a mapping"),
    "a time limit": (lambda a, add: add.apply_async((1, 2), time_limit="1 h"), TypeError, "a number of seconds"),
    "a soft limit": (lambda a, add: add.apply_async((1, 2), soft_time_limit=-1), TypeError, "a number of seconds"),
    "an eta in seconds": (lambda a, add: add.apply_async((1, 2), eta=5), TypeError, "countdown takes seconds"),
    "expires": (lambda a, add: add.apply_async((1, 2), expires=[]), TypeError, "a number of seconds or a datetime"),
    "an endless countdown": (
        lambda a, add: add.apply_async((1, 2), countdown=float("inf")),
        ValueError,
        "countdown must",
    ),
    "a countdown of no number": (
        lambda a, add: add.apply_async((1, 2), countdown=float("nan")),
        ValueError,
        "countdown m",
    ),
    "a countdown of 30,000 years": (
        lambda a, add: add.apply_async((1, 2), countdown=1e12),
        ValueError,
        "countdown must",
    ),
    "endless expires": (lambda a, add: add.apply_async((1, 2), expires=float("inf")), ValueError, "expires must"),
    "expires of no number": (lambda a, add: add.apply_async((1, 2), expires=float("nan")), ValueError, "expires must"),
    "expires in 30,000 years": (lambda a, add: add.apply_async((1, 2), expires=1e12), ValueError, "expires must"),
    "an endless limit": (
        lambda a, add: add.apply_async((1, 2), time_limit=float("inf")),
        ValueError,
        "time_limit must",
    ),
    "a limit of no number": (
        lambda a, add: add.apply_async((1, 2), soft_time_limit=float("nan")),
        ValueError,
        "soft_t",
    ),
    "a soft limit above the hard one": (
        lambda a, add: add.apply_async((1, 2), time_limit=5, soft_time_limit=6),
        ValueError,
        r"soft_time_limit \(6 s\) must not be above time_limit \(5 s\)",
    ),
    "a value": (lambda a, add: add.delay(object(), 1), TypeError, "type object cannot be encoded as JSON"),
    "a task instead of its name": (lambda a, add: a.send_task(add, (1, 2)), TypeError, "apply_async"),
    "arguments by name": (lambda a, add: a.send_task("proj.add", 5), TypeError, "must be a list or tuple"),
    "a group of nothing iterable": (lambda a, add: group(5), TypeError, "a group takes signatures"),
    "a chain of nothing iterable": (lambda a, add: chain(5), TypeError, "a chain takes signatures"),
    "a header": (lambda a, add: chord(5, add.s()), TypeError, "a chord takes signatures"),
    "tasks in a chain": (lambda a, add: chain(add, add), FrameworkError, r"write \.s\(…\)"),
    "a task after a signature": (lambda a, add: add.s(1, 2) | add, TypeError, r"write \.s\(…\)"),
    "a task after a group": (lambda a, add: group(add.s(1, 2)) | add, TypeError, r"write \.s\(…\)"),
    "a task after a chain": (lambda a, add: (add.s(1, 2) | add.s(1)) | add, TypeError, r"write \.s\(…\)"),
    "items": (lambda a, add: xmap(add.s(), 5), TypeError, "an iterable of arguments"),
    "a retry of a plain call": (lambda a, add: add.retry(), Retry, r"send it with delay\(\)"),
    "a replacement of a plain call": (
        lambda a, add: add.replace(add.s(1, 2)),
        FrameworkError,
        "only in a running task",
    ),
    "a chord without results": (lambda a, add: chord([add.s(1, 2)], add.s()).delay(), ConfigError, "backend ="),
    "a result without a store": (lambda a, add: add.delay(1, 2).get(), ConfigError, "set backend under"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_is_refused_in_a_sentence(app, name):
    call, error, text = CALLS[name]
    with pytest.raises(error, match=text) as refused:
        call(app, app.tasks["proj.add"])
    assert "\n" not in str(refused.value)
