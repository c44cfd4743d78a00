"""The mailroom's own judgement: which patterns it matches."""

from __future__ import annotations

import pytest

from framework.worker.mailroom import _harmless


@pytest.mark.parametrize("pattern", ["celery@.*", r"worker\d+@host\d+\..*", "(web|mail)@.+", "a?b@c", "(?i)celery@vm"])
def test_patterns_for_host_names_are_matched(pattern):
    assert _harmless(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["(.*)*!", "(.*.)+!", "(.|.)*!", "(.+){9}!", ".*" * 30 + "!", ".?" * 40 + "!", "(?:.|..)+!", "x" * 129],
)
def test_patterns_that_could_stall_the_loop_are_refused(pattern):
    assert not _harmless(pattern)
