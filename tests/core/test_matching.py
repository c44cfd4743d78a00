"""Patterns of control requests: what they mean, and which are refused."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framework.exceptions import MessageError
from framework.wire.node_pattern import matches


@pytest.mark.parametrize(
    ("pattern", "node", "meant"),
    [
        ("celery@.*", "celery@vm", True),
        (r"worker\d+@host\d+\..*", "worker1@host2.example.com", True),
        (r"worker\d+@host\d+\..*", "worker@host2.example.com", False),
        ("(web|mail)@.+", "mail@vm", True),
        ("(?i)celery@vm", "Celery@VM", True),
        ("celery@", "celery@vm", True),
        ("celery$", "celery@vm", False),
        (r"\bcelery\b@[^x-z]{2}$", "celery@vm", True),
        (r"celery@vm\d{1,3}$", "celery@vm1234", False),
        (r"celery@vm(\.example)?$", "celery@vm.example", True),
        ("a{,2}?b|", "c", True),
        ("[]a]+?@", "]a]@", True),
    ],
)
def test_expressions(pattern, node, meant):
    assert matches(node, pattern, "pcre") is meant


#: Expressions of what is taken: single characters, repeated or not, in groups and alternatives.
singles = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\w", r"\b", "^", "$", r"\."])
repeated = st.tuples(singles, st.sampled_from(["", "", "*", "+", "?", "*?", "{2}", "{1,2}", "{,1}", "{1,}?"])).map(
    "".join
)
sequences = st.lists(repeated, max_size=3).map("".join)
groups = st.lists(sequences, min_size=1, max_size=3).map(lambda each: f"({'|'.join(each)})")
expressions = st.tuples(groups, st.sampled_from(["", "?"]), repeated).map("".join)


@given(expressions, st.text("ab.", max_size=6))
def test_expressions_mean_what_they_mean_to_python(pattern, node):
    try:
        meant = re.match(pattern, node) is not None
        meaning = matches(node, pattern, "pcre")
    except (re.error, MessageError):
        return
    assert meaning is meant


#: The engine of the standard library takes hours for each, on the name of `HOSTILE_NODE`.
HOSTILE = [
    "(?x)(a+) +!",
    "(?x)(a+) + +!",
    "(?:(?:a+)){1}{9}!",
    "a*a*a*a*!",
    "(a|aa)(a|aa)?" + "(a|a)" * 20 + "!",
    "(?=(a+))+!",
    r"(a+)\1\1\1!",
    "(?>a+)+!",
    "[[a]--[b]]+!",
]
HOSTILE_NODE = "a" * 5_000


@pytest.mark.parametrize("pattern", HOSTILE)
def test_a_hostile_expression_is_refused_or_matched_at_once(pattern):
    with contextlib.suppress(MessageError):
        assert not matches(HOSTILE_NODE, pattern, "pcre")


@pytest.mark.parametrize("matcher", ["glob", "pcre"])
def test_a_long_pattern_is_refused_before_it_is_looked_at(matcher):
    with pytest.raises(MessageError, match="the pattern has 420,000 characters"):
        matches("celery@vm", "*a?[b]" * 70_000, matcher)


def test_a_hostile_glob_is_matched_at_once():
    assert not matches("a" * 5_000, "*a" * 255 + "!", "glob")


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
