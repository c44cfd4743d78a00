"""Keeps the right number of children alive.

1. Holds the fork server and the slots; `fill` asks for as many children as are missing, at the lowest free indexes.
2. A child that comes up, has news, or has ended is passed on to the pool.
3. Children that die before they have done anything are replaced at once, then after growing pauses.
4. `restart` has the server import more modules, or starts a second one that imports everything anew; when that has
   worked, the children that there were leave one by one. If it fails, everything goes on as before.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterable
from typing import Final

from framework.api.backoff import Backoff
from framework.api.loop import Timer
from framework.api.pool import PoolContext
from framework_pools.prefork.child import ChildSpec
from framework_pools.prefork.launcher import Imports, Launcher, let_cool
from framework_pools.prefork.slot import Slot

logger = logging.getLogger(__name__)

_BACKOFF_FIRST: Final = 0.1
_BACKOFF_MAX: Final = 30.0
#: Start methods: the module of the server, and how its children are called.
START_METHODS: Final = {
    "fork": ("framework_pools.prefork.server", "ForkPoolWorker"),
    "spawn": ("framework_pools.prefork.spawner", "SpawnPoolWorker"),
}


class Supervisor:
    """The children, and the server that they come from."""

    def __init__(
        self,
        context: PoolContext,
        on_news: Callable[[Slot], object],
        on_exit: Callable[[Slot, int | None], object],
        leave: Callable[[Slot], object],
        on_restarted: Callable[[], object],
    ) -> None:
        self._context = context
        self._loop = context.loop
        self._on_news = on_news
        self._on_exit = on_exit
        self._leave = leave
        self._server, self._family = START_METHODS[context.start_method]
        self._on_restarted = on_restarted
        self.size = max(1, context.concurrency)
        self.slots: dict[int, Slot] = {}
        self._number = 0
        self._launcher: Launcher | None = None
        self._next: Launcher | None = None
        self._former: list[Launcher] = []
        #: What restarts had imported besides the application: every later server imports it too.
        self._imports: dict[str, None] = {}
        #: The last death was one that no task is to blame for.
        self._failing = False
        self._backoff = Backoff(_BACKOFF_FIRST, _BACKOFF_MAX, jitter=0.0)
        self._pause: Timer | None = None
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
        """Wait for the server, as long as is usual, and ask for the children. Raises `FrameworkError`."""
        self.prestart()
        assert self._launcher is not None
        timeout = self._context.start_timeout
        if not self._launcher.wait_ready(timeout):
            logger.warning("The application is still being imported after %g s; tasks wait for it", timeout)
        self._launcher.attach()
        self.fill()

    # ------------------------------------------------------------ children

    def fill(self) -> None:
        """Ask for the children that are missing."""
        launcher = self._launcher
        if self.closing or self._pause is not None or launcher is None or not launcher.ready:
            return
        used = {slot.spec.process_index for slot in self.slots.values()}
        for index in range(1, self.size + 1):
            if len(self.slots) >= self.size:
                break
            if index in used:
                continue
            try:
                self._add(launcher, index)
            except OSError as error:
                logger.error("A child of the pool cannot be started: %s", error.strerror or error)
                self._back_off()
                return

    def _add(self, launcher: Launcher, index: int) -> None:
        self._number += 1
        number = self._number
        spec = ChildSpec(
            number=number,
            process_index=index,
            name=f"{self._family}-{number}",
            title=f"framework worker: {self._context.hostname} [child {index}]",
            max_tasks=self._context.max_tasks_per_child or 0,
            max_memory=self._context.max_memory_per_child or 0,
        )
        slot = Slot(self._loop, launcher, spec, self._on_news)
        slot.start_timer = self._loop.call_later(self._context.start_timeout, self._not_up, slot)
        self.slots[number] = slot

    def _not_up(self, slot: Slot) -> None:
        slot.start_timer = None
        if slot.closed or slot.ready:
            return
        if slot.pid is None or not slot.loaded:
            # Importing takes as long as it takes, here as in the fork server at the start.
            what = "the server that it comes from is busy" if slot.pid is None else "it is importing the application"
            logger.warning(
                "Process %r has not come up within %g s: %s", slot.spec.name, self._context.start_timeout, what
            )
            slot.start_timer = self._loop.call_later(self._context.start_timeout, self._not_up, slot)
        else:
            logger.error(
                "Process %r pid:%s did not come up within %g s and is killed",
                slot.spec.name,
                slot.pid,
                self._context.start_timeout,
            )
            slot.signal(signal.SIGKILL)

    def _back_off(self) -> None:
        """Note a death that no task is to blame for, and pause before the next child."""
        if self._pause is not None:
            return  # it died beside another: the pause is for both
        if self._failing and not self.closing:
            delay = self._backoff.next()
            logger.warning("The pool's processes do not stay alive; the next one starts in %g s", delay)
            self._pause = self._loop.call_later(delay, self._resume)
        self._failing = True

    def _resume(self) -> None:
        self._pause = None
        if self._launcher is not None and self._launcher.failed is not None:
            self._replace_server()
        self.fill()

    def grow(self, n: int) -> None:
        """Have `n` more children."""
        self.size += n
        self.fill()

    def shrink(self, n: int) -> None:
        """Have `n` fewer, idle ones first, at least one."""
        staying = [slot for slot in self.slots.values() if not slot.retired]
        wanted = max(1, self.size - n)
        self.size = wanted
        # The youngest first where several would do: the low indexes stay in use.
        staying.sort(key=lambda slot: (bool(slot.jobs), -slot.spec.process_index))
        for slot in staying[: max(0, len(staying) - wanted)]:
            self._leave(slot)

    # ------------------------------------------------------------ restart

    def restart(self, imports: Iterable[str], fresh: bool) -> None:
        """Replace every child after its current job by one that has imported `imports`.

        `fresh`: by one that has imported the application anew as well.
        """
        if self.closing:
            return
        names = tuple(imports)
        servers = [server for server in (self._launcher, self._next) if server is not None and server.failed is None]
        if fresh:
            # What earlier restarts are still about comes with this one.
            underway = [name for server in servers for asked in server.asked for name in asked.names]
            if self._next is not None:
                underway += self._next.imports
                self._next.end(0)
            self._next = self._new_launcher((*underway, *names))
            self._next.attach()
            return
        if not servers:
            self._imports.update(dict.fromkeys(names))  # the next server is on its way, and imports them
        for server in servers:
            try:
                server.import_modules(Imports(names, self._number))
            except OSError as error:
                logger.error("The pool cannot be restarted and goes on as it was: %s", error.strerror or error)

    @property
    def restarting(self) -> bool:
        """What a restart asked for is not there yet, nor has it failed."""
        return self._next is not None or (self._launcher is not None and bool(self._launcher.asked))

    def server_imported(self, launcher: Launcher, asked: Imports, failure: str) -> None:
        """Replace the children that are older than the imports."""
        self._loop.call_soon(self._on_restarted)
        if failure:
            logger.error("The pool cannot be restarted and goes on as it was: %s", failure)
            return
        self._imports.update(dict.fromkeys(asked.names))
        for slot in list(self.slots.values()):
            if slot.launcher is launcher and slot.spec.number <= asked.youngest:
                self._leave(slot)
        self.fill()

    def server_ready(self, launcher: Launcher) -> None:
        """Take children from `launcher` from now on."""
        if launcher is self._next:
            self._next = None
            self._imports.update(dict.fromkeys(launcher.imports))
            former, self._launcher = self._launcher, launcher
            if former is not None:
                for slot in list(self.slots.values()):
                    if slot.launcher is former:
                        self._leave(slot)
                former.retire()
                self._former = [launcher for launcher in self._former if not launcher.ended]
                self._former.append(former)
            self._loop.call_soon(self._on_restarted)
        self.fill()

    def server_failed(self, launcher: Launcher, text: str) -> None:
        """Go on with the children that there are, or try again."""
        if launcher is self._next:
            logger.error("The pool cannot be restarted and goes on as it was: %s", text)
            self._next = None
            launcher.end(1.0)
            self._loop.call_soon(self._on_restarted)
        elif launcher is self._launcher and not self.closing:
            logger.error("The pool's fork server failed: %s", text)
            launcher.end(1.0)
            self._back_off()
            if self._pause is None:
                self._replace_server()

    def _replace_server(self) -> None:
        self._launcher = self._new_launcher()
        self._launcher.attach()

    # ------------------------------------------------------------ what the server reports

    def child_forked(self, number: int, pid: int) -> None:
        """Note the pid of a child."""
        slot = self.slots.get(number)
        if slot is not None:
            slot.pid = pid
            self._on_news(slot)

    def child_exited(self, number: int, status: int | None) -> None:
        """Clear up after a child, and replace it."""
        slot = self.slots.pop(number, None)
        if slot is None:
            return
        # Left on purpose, killed on purpose, or with a task to blame: the next one may start at once.
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
        """Replace nobody any more."""
        self.closing = True
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def kill(self) -> None:
        """Kill every child; the servers end when they have reported it."""
        self.close()
        for slot in self.slots.values():
            slot.signal(signal.SIGKILL)
        for launcher in self._launchers():
            launcher.retire()

    def detach(self) -> None:
        """Have nothing of ours left in the loop."""
        self.close()
        for launcher in self._launchers():
            launcher.detach()
        for slot in self.slots.values():
            slot.detach()

    def end(self, deadline: float) -> None:
        """After `detach`, in any thread: let the children leave, and kill what is left at `deadline`."""
        for slot in self.slots.values():
            slot.retire()
        launchers = self._launchers()
        for launcher in launchers:
            launcher.retire()
        for launcher in launchers:
            if not launcher.wait(deadline - time.monotonic()):
                for slot in self.slots.values():
                    slot.signal(signal.SIGKILL)
                # Alive a moment longer, it waits for its dead children: nobody else may.
                launcher.wait(1.0)
            launcher.end(0)
        let_cool(self._server)
        for slot in self.slots.values():
            with contextlib.suppress(OSError):
                slot.close()
        self.slots.clear()
        self._launcher = self._next = None
        self._former.clear()
