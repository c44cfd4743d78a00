"""Two releases of an application, for tests of a rolling deploy: `old` does not have the task that `new` brings."""

from __future__ import annotations

import json
import os
from typing import Any

from framework import App
from support import ledger


def release(*tasks: str) -> App:
    """Return an application whose tasks write what they are given into the ledger."""
    app = App("rollout", broker=os.environ.get("TEST_BROKER_URL"), backend=os.environ.get("TEST_RESULT_URL"))
    app.conf.update(json.loads(os.environ.get("TEST_CONF", "{}")))

    def note(entry: Any) -> Any:
        ledger.append(os.environ["TEST_LEDGER"], entry)
        return entry

    for name in tasks:
        app.task(name=name)(note)
    return app


old = release("rollout.common")
new = release("rollout.common", "rollout.fresh")
