"""Our own autoscalers before the suite that a stranger's autoscaler has to pass."""

from __future__ import annotations

from framework.testing.autoscalers import AutoscalerSuite


class TestQueue(AutoscalerSuite):
    autoscaler = "queue"


class TestLoad(AutoscalerSuite):
    autoscaler = "load"


class TestMemory(AutoscalerSuite):
    autoscaler = "memory"
