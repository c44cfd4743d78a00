"""The first calls of a process from many threads: every part of an application is made once."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from framework import App, shared_task
from framework._config.making import making
from support.wait import wait_for

THREADS = 8
ROUNDS = 30


@shared_task(name="first.shared")
def shared() -> None:
    """A task that each application makes for itself."""


PARTS: dict[str, Callable[[App], object]] = {
    "publisher": lambda app: app.publisher,
    "sender": lambda app: app.sender,
    "oid": lambda app: app.oid,
    "result_store": lambda app: app.result_store,
    "transport": lambda app: app.transport,
    "hooks": lambda app: app.hooks,
    "control": lambda app: app.control,
    "settings": lambda app: app.conf.settings,
    "shared tasks": lambda app: app.tasks["first.shared"],
    "built-in tasks": lambda app: app.tasks["celery.chord"],
}


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("part", PARTS)
def test_it_is_made_once(part: str) -> None:
    for _ in range(ROUNDS):
        app = App("first", broker="memory://", backend="rpc://", set_as_current=False)
        barrier = threading.Barrier(THREADS)
        found: list[object] = []

        def read(app: App = app, barrier: threading.Barrier = barrier, found: list[Any] = found) -> None:
            barrier.wait()
            try:
                found.append(PARTS[part](app))
            except Exception as error:  # noqa: BLE001 - compared below
                found.append(repr(error))

        threads = [threading.Thread(target=read) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == THREADS
        assert all(one is found[0] or one == found[0] for one in found), found
        assert not isinstance(found[0], str) or part == "oid", found[0]
        app.close()


def test_a_child_has_its_own() -> None:
    app = App("first", broker="memory://", backend="rpc://", set_as_current=False)
    mine = app.oid
    inside, outside = threading.Event(), threading.Event()

    def hold() -> None:
        with making():
            inside.set()
            outside.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork: what this test is about
        pid = os.fork()
    if pid == 0:
        # A lock that a thread of the parent holds must not stop the child.
        try:
            os.write(writing, app.oid.encode())
        finally:
            os._exit(0)
    outside.set()
    holder.join()
    os.close(writing)
    wait_for(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, 30, "the child to end")
    with os.fdopen(reading) as answer:
        theirs = answer.read()
    assert theirs
    assert theirs != mine
    app.close()
