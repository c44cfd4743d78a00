"""Tasks that end in every way but a success, with late and early ack; what follows is for the settings to say.

Each notes that it starts, as ``<end>`` or ``early.<end>``, and starts once more at the most: by a retry or a delivery.
"""

from __future__ import annotations

import json
import os
from typing import Any

from framework import App
from support import ended, ledger

ENDS = ("failure", "soft_timeout", "hard_timeout", "worker_lost")

app = App("celeryends", broker=os.environ.get("TEST_BROKER_URL"), backend=os.environ.get("TEST_RESULT_URL"))
app.conf.update(json.loads(os.environ.get("TEST_CONF", "{}")))


def _add(end: str, **options: Any) -> None:
    body, how = ended.HOW[end]
    name = end if options.get("acks_late") else f"early.{end}"

    def task() -> None:
        ledger.append(os.environ["TEST_LEDGER"], name)
        body()

    app.task(name=f"ended.{name}", max_retries=1, default_retry_delay=0.5, max_deliveries=2, **how, **options)(task)


for _end in ENDS:
    _add(_end, acks_late=True)
    _add(_end)
