"""Waiting for events: what `framework.testing` gives to everybody."""

from __future__ import annotations

from framework.testing.wait import FIRST_PAUSE, LONGEST_PAUSE, wait_for

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "wait_for"]
