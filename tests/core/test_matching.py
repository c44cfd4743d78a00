"""Patterns of control requests: what they mean, and which are refused."""

from __future__ import annotations

import pytest

from framework.exceptions import MessageError
from framework.wire.control_request import matches


@pytest.mark.parametrize(
    ("pattern", "node", "meant"),
    [
        ("celery@.*", "celery@vm", True),
        (r"worker\d+@host\d+\..*", "worker1@host2.example.com", True),
        (r"worker\d+@host\d+\..*", "worker@host2.example.com", False),
        ("(web|mail)@.+", "mail@vm", True),
        ("(?i)celery@vm", "Celery@VM", True),
    ],
)
def test_expressions(pattern, node, meant):
    assert matches(node, pattern, "pcre") is meant


def test_globs():
    assert matches("celery@vm", "celery@*", "glob")
    assert not matches("celery@vm", "celery@.*", "glob")


@pytest.mark.parametrize(
    "pattern",
    [
        "(.*)*!",
        "(.*.)+!",
        "(.|.)*!",
        "(.+){9}!",
        ".*" * 30 + "!",
        ".?" * 40 + "!",
        "(?:.|..)+!",
        "x" * 129,
        "(",
        "[z-a]",
    ],
)
def test_what_could_stall_the_loop_or_is_no_expression_is_refused(pattern):
    with pytest.raises(MessageError, match="pattern"):
        matches("celery@vm", pattern, "pcre")
