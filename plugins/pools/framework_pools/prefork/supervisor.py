"""Supervisor of the prefork pool: keeps the configured number of children alive.

1. Owns the fork server and the slots; `fill` requests the missing children, at the lowest free indexes.
2. Reports to the pool when a child is ready, has outcomes, or has exited.
3. Replaces dead children at once; with growing delays if they die repeatedly before they get a job. Kills a child whose
   set-up takes too long, and gives the next one more time.
4. `restart` has the server import more modules, or starts a second server that imports everything again. After success
   the old children exit one by one; after a failure they stay.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from framework.api.backoff import Backoff
from framework.api.loop import Timer
from framework.api.pool import PoolContext
from framework_pools.prefork.child import ChildSpec
from framework_pools.prefork.descriptors import Descriptors
from framework_pools.prefork.launcher import Imports, Launcher, discard_warm
from framework_pools.prefork.slot import Slot
from framework_pools.prefork.stacks import STACK_TIMEOUT, Stacks

logger = logging.getLogger(__name__)

_BACKOFF_FIRST: Final = 0.1
_BACKOFF_MAX: Final = 30.0
#: A child gets up to so many times `start_timeout` for its set-up before it counts as stuck.
_SLOW_MAX: Final = 4
#: By start method: the module of the server, and the prefix of its children's names.
START_METHODS: Final = {
    "fork": ("framework_pools.prefork.server", "ForkPoolWorker"),
    "spawn": ("framework_pools.prefork.spawner", "SpawnPoolWorker"),
}


class Supervisor:
    """Owns the children and the servers that start them."""

    def __init__(
        self,
        context: PoolContext,
        on_change: Callable[[Slot], object],
        on_exit: Callable[[Slot, int | None], object],
        retire: Callable[[Slot], object],
        on_restarted: Callable[[], object],
    ) -> None:
        self._context = context
        self._loop = context.loop
        self._on_change = on_change
        self._on_exit = on_exit
        self._retire = retire
        self._server, self._name_prefix = START_METHODS[context.start_method]
        self._on_restarted = on_restarted
        self._stacks = Stacks(context.loop)
        #: Seconds that a child may take for its set-up; doubled when a child did not come up.
        self._start_timeout = context.start_timeout
        self.size = max(1, context.concurrency)
        self.slots: dict[int, Slot] = {}
        self._descriptors = Descriptors()
        self._number = 0
        self._launcher: Launcher | None = None
        self._next: Launcher | None = None
        self._former: list[Launcher] = []
        #: Modules imported by restarts, besides the application; every later server imports them too.
        self._imports: dict[str, None] = {}
        #: The last child died without a task that caused it.
        self._failing = False
        self._backoff = Backoff(_BACKOFF_FIRST, _BACKOFF_MAX, jitter=0.0)
        self._backoff_timer: Timer | None = None
        self.closing = False

    # ------------------------------------------------------------ start

    def prestart(self) -> None:
        """Start the server."""
        if self._launcher is None:
            self._launcher = self._new_launcher()

    def _new_launcher(self, imports: Iterable[str] = ()) -> Launcher:
        title = f"framework worker: {self._context.hostname}"
        names = dict.fromkeys((*self._imports, *imports))
        launcher = Launcher(self._loop, self, title, self._context.recipe, tuple(names), self._server)
        launcher.start()
        return launcher

    def start(self) -> None:
        """Wait for the server, up to `start_timeout`, and request the children. Raises `FrameworkError`."""
        self.prestart()
        assert self._launcher is not None
        timeout = self._context.start_timeout
        if not self._launcher.wait_ready(timeout):
            logger.warning(
                "The application is still being imported after %g s (proc_alive_timeout); tasks wait for it", timeout
            )
        self._launcher.attach()
        self.fill()

    # ------------------------------------------------------------ children

    @property
    def target(self) -> int:
        """The number of children to keep: `size`, or fewer if the limit of open files is too low."""
        return self._descriptors.affordable(self.size)

    def fill(self) -> None:
        """Request the missing children."""
        launcher = self._launcher
        if self.closing or self._backoff_timer is not None or launcher is None or not launcher.ready:
            return
        used = {slot.spec.process_index for slot in self.slots.values()}
        target = self.target
        for index in range(1, self.size + 1):
            if len(self.slots) >= target:
                break
            if index in used:
                continue
            try:
                self._add(launcher, index)
            except OSError as error:
                logger.error("A child of the pool cannot be started: %s", error.strerror or error)
                self._failing = True  # even after the first failure nothing else tries again
                self._back_off()
                return

    def _add(self, launcher: Launcher, index: int) -> None:
        self._number += 1
        number = self._number
        spec = ChildSpec(
            number=number,
            process_index=index,
            name=f"{self._name_prefix}-{number}",
            title=f"framework worker: {self._context.hostname} [child {index}]",
            max_tasks=self._context.max_tasks_per_child or 0,
            max_memory=self._context.max_memory_per_child or 0,
        )
        slot = Slot(self._loop, launcher, spec, self._on_change)
        slot.start_timer = self._loop.call_later(self._start_timeout, self._start_timed_out, slot, self._start_timeout)
        self.slots[number] = slot

    def _start_timed_out(self, slot: Slot, limit: float) -> None:
        slot.start_timer = None
        if slot.closed or slot.ready:
            return
        left = limit
        if slot.pid is None or not slot.loaded_at:
            # An import has no time limit, neither here nor in the fork server at start.
            what = "its server is busy" if slot.pid is None else "it is importing the application"
            logger.warning("Process %r is not ready after %g s: %s", slot.spec.name, limit, what)
        elif (left := slot.loaded_at + limit - time.monotonic()) <= 0:
            self._stacks.request(slot, partial(self._kill_slow, slot, limit), STACK_TIMEOUT, all_threads=True)
            return
        slot.start_timer = self._loop.call_later(left, self._start_timed_out, slot, limit)

    def _kill_slow(self, slot: Slot, limit: float, stack: str) -> None:
        """Kill a child whose set-up takes too long; the next one has more time, since slow is not yet stuck."""
        if slot.closed or slot.ready:
            return
        most = self._context.start_timeout * _SLOW_MAX
        self._start_timeout = max(self._start_timeout, min(limit * 2, most))
        logger.error(
            "Process %r pid:%s has not finished its set-up within %g s (proc_alive_timeout): killing it; %s%s",
            slot.spec.name,
            slot.pid,
            limit,
            "it seems to hang"
            if limit >= most
            else f"in case it is only slow, the next one has {self._start_timeout:g} s",
            f"; its stack:\n{stack}" if stack else "",
        )
        slot.signal(signal.SIGKILL)

    def _back_off(self) -> None:
        """Count a death that no task caused, and delay the next child."""
        if self._backoff_timer is not None:
            return  # one delay covers all children that die together
        if self._failing and not self.closing:
            delay = self._backoff.next()
            logger.warning("The pool's processes do not stay alive; the next one starts in %g s", delay)
            self._backoff_timer = self._loop.call_later(delay, self._backoff_ended)
        self._failing = True

    def _backoff_ended(self) -> None:
        self._backoff_timer = None
        if self._launcher is not None and self._launcher.failed is not None:
            self._replace_server()
        self.fill()

    def grow(self, n: int) -> None:
        """Add `n` children."""
        self.size += n
        self.fill()

    def shrink(self, n: int) -> None:
        """Remove `n` children, idle ones first; at least one stays."""
        staying = [slot for slot in self.slots.values() if not slot.retired]
        wanted = max(1, self.size - n)
        self.size = wanted
        # Among equals the highest index goes first, so that low indexes stay in use.
        staying.sort(key=lambda slot: (bool(slot.jobs), -slot.spec.process_index))
        for slot in staying[: max(0, len(staying) - wanted)]:
            self._retire(slot)

    # ------------------------------------------------------------ restart

    def restart(self, imports: Iterable[str], fresh: bool) -> None:
        """Replace every child, after its current job, by one that has imported `imports`.

        `fresh`: the new children have imported the application again, too.
        """
        if self.closing:
            return
        names = tuple(imports)
        servers = [server for server in (self._launcher, self._next) if server is not None and server.failed is None]
        if fresh:
            # The new server also imports the modules of restarts in progress.
            pending = [name for server in servers for request in server.pending_imports for name in request.names]
            if self._next is not None:
                pending += self._next.imports
                self._next.end(0)
            self._next = self._new_launcher((*pending, *names))
            self._next.attach()
            return
        if not servers:
            self._imports.update(dict.fromkeys(names))  # the next server will import them
        for server in servers:
            try:
                server.import_modules(Imports(names, self._number))
            except OSError as error:
                logger.error("The pool cannot be restarted and keeps its processes: %s", error.strerror or error)

    @property
    def restarting(self) -> bool:
        """Whether a restart is in progress."""
        return self._next is not None or (self._launcher is not None and bool(self._launcher.pending_imports))

    def server_imported(self, launcher: Launcher, request: Imports, failure: str) -> None:
        """Replace the children that were forked before the imports."""
        self._loop.call_soon(self._on_restarted)
        if failure:
            logger.error("The pool cannot be restarted and keeps its processes: %s", failure)
            return
        self._imports.update(dict.fromkeys(request.names))
        for slot in list(self.slots.values()):
            if slot.launcher is launcher and slot.spec.number <= request.youngest:
                self._retire(slot)
        self.fill()

    def server_ready(self, launcher: Launcher) -> None:
        """Start children with `launcher` from now on."""
        if launcher is self._next:
            self._next = None
            self._imports.update(dict.fromkeys(launcher.imports))
            former, self._launcher = self._launcher, launcher
            if former is not None:
                for slot in list(self.slots.values()):
                    if slot.launcher is former:
                        self._retire(slot)
                former.retire()
                self._former = [launcher for launcher in self._former if not launcher.ended]
                self._former.append(former)
            self._loop.call_soon(self._on_restarted)
        self.fill()

    def server_failed(self, launcher: Launcher, text: str) -> None:
        """Keep the current children after a failed restart; otherwise start another server."""
        if launcher is self._next:
            logger.error("The pool cannot be restarted and keeps its processes: %s", text)
            self._next = None
            launcher.end(1.0)
            self._loop.call_soon(self._on_restarted)
        elif launcher is self._launcher and not self.closing:
            logger.error("The pool's fork server failed: %s", text)
            launcher.end(1.0)
            self._back_off()
            if self._backoff_timer is None:
                self._replace_server()

    def _replace_server(self) -> None:
        self._launcher = self._new_launcher()
        self._launcher.attach()

    # ------------------------------------------------------------ what the server reports

    def child_forked(self, number: int, pid: int) -> None:
        """Record the pid of a child."""
        slot = self.slots.get(number)
        if slot is not None:
            slot.pid = pid
            self._on_change(slot)

    def child_exited(self, number: int, status: int | None) -> None:
        """Release a child's slot and replace the child."""
        slot = self.slots.pop(number, None)
        if slot is None:
            return
        # The child was retired or killed by the pool, or had a job: its successor needs no delay.
        useful = slot.retired or slot.pending_kill is not None or slot.done > 0 or bool(slot.jobs)
        self._on_exit(slot, status)
        slot.close()
        if useful or self.closing:
            self._failing = False
            self._backoff.reset()
        else:
            self._back_off()
        self.fill()

    # ------------------------------------------------------------ end

    def _launchers(self) -> list[Launcher]:
        return [launcher for launcher in (self._launcher, self._next, *self._former) if launcher is not None]

    def close(self) -> None:
        """Stop replacing children."""
        self.closing = True
        if self._backoff_timer is not None:
            self._backoff_timer.cancel()
            self._backoff_timer = None

    def kill(self) -> None:
        """Kill every child; the servers exit after they have reported the deaths."""
        self.close()
        for slot in self.slots.values():
            slot.signal(signal.SIGKILL)
        for launcher in self._launchers():
            launcher.retire()

    def detach(self) -> None:
        """Remove every timer and reader of the pool from the loop."""
        self.close()
        for launcher in self._launchers():
            launcher.detach()
        for slot in self.slots.values():
            slot.detach()

    def end(self, deadline: float) -> None:
        """Wait for the children to exit, and kill them at `deadline`. Call `detach` first; any thread may call this."""
        for slot in self.slots.values():
            slot.retire()
        launchers = self._launchers()
        for launcher in launchers:
            launcher.retire()
        for launcher in launchers:
            if not launcher.wait(deadline - time.monotonic()):
                for slot in self.slots.values():
                    slot.signal(signal.SIGKILL)
                # Only the server can reap its children, so it needs a moment longer.
                launcher.wait(1.0)
            launcher.end(0)
        discard_warm(self._server)
        for slot in self.slots.values():
            with contextlib.suppress(OSError):
                slot.close()
        self.slots.clear()
        self._launcher = self._next = None
        self._former.clear()
