"""The hooks around a task come in pairs, however it ends."""

from __future__ import annotations

import contextlib
import textwrap

import pytest

from framework import App
from support import ledger, workers
from support.wait import wait_for

MODULE = """
    import os
    from framework import App
    from framework.api.hook import hookimpl
    from framework.exceptions import Ignore, Reject
    from support import ledger

    app = App("ends", broker=os.environ["TEST_BROKER_URL"])

    class Pairs:
        @hookimpl
        def task_prerun(self, task_id, args):
            ledger.append(os.environ["TEST_LEDGER"], f"begins {args[0]}")

        @hookimpl
        def task_postrun(self, task_id, args, state):
            ledger.append(os.environ["TEST_LEDGER"], f"ends {args[0]} {state}")

    app.register_hooks(Pairs())

    @app.task(name="ends.end", bind=True, max_retries=1, ignore_result=True)
    def end(self, how):
        if how == "raise":
            raise ValueError("broken")
        if how == "retry":
            raise self.retry(countdown=0, args=("again",))
        if how == "ignore":
            raise Ignore
        if how == "reject":
            raise Reject("no")
"""
ENDS = {
    "return": ["begins return", "ends return SUCCESS"],
    "raise": ["begins raise", "ends raise FAILURE"],
    "retry": ["begins retry", "ends retry RETRY", "begins again", "ends again SUCCESS"],
    "ignore": ["begins ignore", "ends ignore IGNORED"],
    "reject": ["begins reject", "ends reject REJECTED"],
}


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_what_has_begun_is_told_to_have_ended(pool, tmp_path, sqlite_url):
    (tmp_path / "ends.py").write_text(textwrap.dedent(MODULE))
    book = tmp_path / "ledger"
    env = workers.app_environment(broker=sqlite_url, ledger=book)
    worker = workers.start_worker(tmp_path, "-P", pool, "-c", "1", app="ends", env=env)
    with contextlib.closing(App("ends", broker=sqlite_url, set_as_current=False)) as app, worker:
        worker.wait_ready()
        for how in ENDS:
            app.send_task("ends.end", (how,))
        total = sum(map(len, ENDS.values()))
        told = wait_for(lambda: found if len(found := ledger.read(book)) >= total else None, timeout=40)
    for how, expected in ENDS.items():
        assert set(expected) <= set(told), how
    assert len(told) == total
