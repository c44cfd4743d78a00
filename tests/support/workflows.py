"""Workflows of the sample tasks with what they come to, for our canvas and Celery's alike.

`CASES` maps a name to a function of the canvas (`framework` or `celery`) and the tasks, and to the value that comes of
it; `FAILING` has those whose body fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Tasks(NamedTuple):
    """The sample tasks that the workflows are made of."""

    add: Any
    xsum: Any
    echo: Any
    fail: Any
    retrying: Any
    swap: Any
    grow: Any

    @classmethod
    def of(cls, tasks: Any) -> Tasks:
        return cls(*(tasks[f"proj.{name}"] for name in cls._fields))


Make = Callable[[Any, Tasks], Any]


def _adds(canvas: Any, t: Tasks, count: int) -> Any:
    return canvas.group(t.add.s(number, number) for number in range(count))


CASES: dict[str, tuple[Make, Any]] = {
    "chord": (lambda c, t: c.chord([t.add.s(n, n) for n in range(5)], t.xsum.s()), 20),
    "chord of one": (lambda c, t: c.chord([t.add.s(1, 2)], t.xsum.s()), 3),
    "chord of none": (lambda c, t: c.chord([], t.xsum.s()), 0),
    "group then task": (lambda c, t: _adds(c, t, 3) | t.xsum.s() | t.add.s(1), 7),
    "group in a chain": (lambda c, t: t.add.s(1, 1) | c.group(t.add.s(1), t.add.s(2)) | t.xsum.s() | t.add.s(100), 107),
    "group at the end": (lambda c, t: t.add.s(1, 1) | c.group(t.add.s(1), t.add.s(2)), [3, 4]),
    "body is a group": (
        lambda c, t: c.chord([t.add.s(1, 1), t.add.s(2, 2)], c.group(t.xsum.s(), t.echo.s())),
        [6, [[[2, 4]], {}]],
    ),
    "chord in a header": (
        lambda c, t: c.chord([c.chord([t.add.s(1, 1), t.add.s(2, 2)], t.xsum.s()), t.add.s(3, 3)], t.xsum.s()),
        12,
    ),
    "chord after chord": (lambda c, t: _adds(c, t, 3) | c.group(t.xsum.s(), t.xsum.s()) | t.xsum.s(), 12),
    "chain in a header": (lambda c, t: c.chord([c.chain(t.add.s(1, 1), t.add.s(2)), t.add.s(3, 3)], t.xsum.s()), 10),
    "group at the end of a chain in a header": (
        lambda c, t: c.chord([c.chain(t.add.s(1, 1), c.group(t.add.s(2), t.add.s(3))), t.add.s(3, 3)], t.echo.s()),
        [[[[4, 5], 6]], {}],
    ),
    "groups in a header": (
        lambda c, t: c.chord([c.group(t.add.s(1, 1), c.group(t.add.s(2, 2))), t.add.s(4, 4)], t.xsum.s()),
        14,
    ),
    "empty groups after a group": (lambda c, t: c.chain(_adds(c, t, 3), c.group(), c.group()), [0, 2, 4]),
    "an empty group between two tasks": (lambda c, t: c.chain(t.add.s(2, 3), c.group(), t.add.s(10)), 15),
    "an empty group after a task": (lambda c, t: t.add.s(2, 3) | c.group(), 5),
    "an empty group after a chord": (lambda c, t: c.chain(c.chord(_adds(c, t, 3), t.xsum.s()), c.group()), 6),
    "an empty group before a task": (lambda c, t: c.chain(c.group(), t.add.s(2, 3)), 5),
    "a group of empty groups in a chain": (lambda c, t: c.chain(t.add.s(2, 3), c.group(c.group()), t.add.s(1)), 6),
    "empty chains in a chain": (lambda c, t: c.chain(c.chain(), t.add.s(2, 3), c.chain(), t.add.s(1)), 6),
    "empty chains in a header": (lambda c, t: c.chord([c.chain(), t.add.s(2, 3), c.chain()], t.xsum.s()), 5),
    "nothing but empty chains in a header": (lambda c, t: c.chord([c.chain(), c.chain()], t.xsum.s()), 0),
    "empty chains in a group": (lambda c, t: c.group(t.add.s(2, 3), c.chain()), [5]),
    "a member is retried": (lambda c, t: c.chord([t.retrying.s(2), t.add.s(3, 3)], t.xsum.s()), 8),
    "a member adds one": (lambda c, t: c.chord([t.grow.s(2), t.add.s(3, 3)], t.xsum.s()), 12),
    "replaced by a group": (lambda c, t: t.swap.s([1, 2, 3]), [2, 4, 6]),
    "replaced by a chain": (lambda c, t: t.swap.s([1], "chain"), 3),
    "replaced by a chord in a chain": (lambda c, t: t.swap.s([1, 2], "chord") | t.add.s(1), 7),
    "a member is replaced by a group": (
        lambda c, t: c.chord([t.swap.s([1, 2]), t.add.s(3, 3)], t.echo.s()),
        [[[[2, 4], 6]], {}],
    ),
    "a member is replaced by a chord": (
        lambda c, t: c.chord([t.swap.s([1, 2], "chord"), t.add.s(3, 3)], t.xsum.s()),
        12,
    ),
    "chord then chord": (
        lambda c, t: c.chord([t.add.s(1, 1)], t.xsum.s()) | c.chord([t.add.s(1), t.add.s(2)], t.xsum.s()),
        7,
    ),
    "groups after each other": (
        lambda c, t: (
            t.add.s(1, 1)
            | c.group(t.add.s(1), t.add.s(2))
            | c.group(t.xsum.s(), t.xsum.s())
            | c.group(t.xsum.s(), t.echo.s())
            | t.echo.s()
        ),
        [[[14, [[[7, 7]], {}]]], {}],
    ),
    "group of groups": (
        lambda c, t: c.group(c.group(t.add.s(1, 1), t.add.s(2, 2)), t.add.s(3, 3)),
        [2, 4, 6],
    ),
    "replaced by a chain that ends in a group": (lambda c, t: t.swap.s([1, 2], "chain of group"), [3, 4]),
    "map": (lambda c, t: t.xsum.map([[1, 2], [3]]), [3, 3]),
    "starmap": (lambda c, t: t.add.starmap([(1, 2), (3, 4)]), [3, 7]),
    "chunks": (lambda c, t: t.add.chunks([(n, n) for n in range(5)], 2), [[0, 2], [4, 6], [8]]),
    "chunks then task": (
        lambda c, t: t.add.chunks([(n, n) for n in range(3)], 2).group() | t.echo.s(),
        [[[[0, 2], [4]]], {}],
    ),
    "immutable body": (lambda c, t: c.chord([t.add.s(1, 1)], t.add.si(20, 2)), 22),
}  # fmt: skip

FAILING: dict[str, Make] = {
    "a member fails": lambda c, t: c.chord([t.fail.s("x"), t.add.s(3, 3)], t.xsum.s()),
    "a link of a member fails": lambda c, t: c.chord(
        [c.chain(t.fail.s("x"), t.add.s(1)), t.add.s(3, 3)], t.xsum.s() | t.add.s(2)
    ),
    "a chord in the header fails": lambda c, t: c.chord(
        [c.chord([t.fail.s("x"), t.add.s(2, 2)], t.xsum.s()), t.add.s(3, 3)], t.xsum.s()
    ),
    "the body of a chord in the header fails": lambda c, t: c.chord(
        [c.chord([t.add.s(2, 2)], t.fail.si("x")), t.add.s(3, 3)], t.xsum.s()
    ),
}
