"""What a pool replaces in the standard library: all of it in time, and nothing for good."""

from __future__ import annotations

import _socket
import select
from types import BuiltinFunctionType

from framework.api.originals import original
from framework.api.pool import SUCCESS
from framework.testing.pools.base import Bench, PoolSuiteBase


class PatchPromises(PoolSuiteBase):
    """The interpreter that a pool needs."""

    def test_the_interpreter_is_patched(self, start: Bench) -> None:
        """After `patch`, which was called before anything else was imported, `patched` says yes."""
        assert start.pool_type.patched()

    def test_patching_again_is_harmless(self, start: Bench) -> None:
        """The application may have done it already."""
        start.pool_type.patch()
        assert start.pool_type.patched()
        assert start().run(b"noop")[0].code == SUCCESS

    def test_what_was_replaced_is_still_there(self, start: Bench) -> None:
        """Threads of the system's, and polls that block them: core has some that no task may hold up."""
        ours, theirs = _socket.socketpair()
        threads, poll = original("_thread"), original("select").poll
        assert isinstance(threads.start_new_thread, BuiltinFunctionType)
        assert poll().poll(0) == []
        idents: list[int] = []

        def answer() -> None:
            idents.append(threads.get_ident())
            theirs.close()

        threads.start_new_thread(answer, ())
        assert select.select([ours.fileno()], [], [], self.patience)[0], "the thread did not come up"
        ours.close()
        assert idents != [threads.get_ident()]

    def test_what_a_task_may_let_out_is_no_exception(self, start: Bench) -> None:
        """`task_errors` is for what core would not take for a failure by itself."""
        for kind in start.pool_type.task_errors:
            assert issubclass(kind, BaseException)
            assert not issubclass(kind, Exception)
