"""Patching: the interpreter is patched before other imports, and the original functions stay available."""

from __future__ import annotations

import _socket
import select
from types import BuiltinFunctionType

from framework.api.originals import original
from framework.api.pool import SUCCESS
from framework.testing.pools.base import Bench, PoolSuiteBase


class PatchPromises(PoolSuiteBase):
    """Tests of the patched interpreter."""

    def test_the_interpreter_is_patched(self, start: Bench) -> None:
        """`patched` returns True after `patch`."""
        assert start.pool_type.patched()

    def test_patching_again_is_harmless(self, start: Bench) -> None:
        """A second `patch` is harmless; the application may have patched already."""
        start.pool_type.patch()
        assert start.pool_type.patched()
        assert start().run(b"noop")[0].code == SUCCESS

    def test_what_was_replaced_is_still_there(self, start: Bench) -> None:
        """`original` returns the functions for system threads and blocking polls, which core uses."""
        ours, theirs = _socket.socketpair()
        threads, poll = original("_thread"), original("select").poll
        assert isinstance(threads.start_new_thread, BuiltinFunctionType)
        assert poll().poll(0) == []
        idents: list[int] = []

        def answer() -> None:
            idents.append(threads.get_ident())
            theirs.close()

        threads.start_new_thread(answer, ())
        assert select.select([ours.fileno()], [], [], self.patience)[0], "the thread did not start"
        ours.close()
        assert idents != [threads.get_ident()]

    def test_interrupts_are_no_exceptions(self, start: Bench) -> None:
        """`interrupts` lists only classes that are not an `Exception`: a task must not catch them by accident."""
        for kind in start.pool_type.interrupts:
            assert issubclass(kind, BaseException)
            assert not issubclass(kind, Exception)
