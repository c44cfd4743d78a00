"""What the faults of a plan do to a scene: one method each, and what undoes those that last.

1. `strike` does what an event says and notes it in `Scene.faults`; `due` undoes what has lasted long enough.
2. `watch` sees workers that have ended. The victim is started again: whether we killed it or its failpoints did.
3. `heal` undoes everything, so that the books can be closed.
"""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable

import psutil

from faults.accounts import Fault
from faults.plan import STEADY, VICTIM, Event
from faults.scene import Actor, Scene
from support.wait import wait_for

#: Seconds after which a fault may still have consequences: a reconnect with its back-off, a lease that lapses.
AFTERMATH = 8.0
#: Seconds that a killed process may take to end, at the very most.
_DYING = 30.0


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Mishaps:
    """Used by one thread."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        #: What is to be undone: when, the fault, its beginning, how.
        self._lasting: list[tuple[float, str, float, Callable[[], object]]] = []
        self.counts: Counter[str] = Counter()
        #: Ends of workers that nobody caused.
        self.deaths: list[str] = []

    # ------------------------------------------------------------ doing

    def strike(self, event: Event) -> None:
        """Do what `event` says."""
        began = time.monotonic()
        actor = self._scene.actors[event.worker or STEADY]
        done = getattr(self, f"_{event.what.replace('-', '_')}")(actor, event)
        if done == frozenset():
            return  # there was nobody to kill: it explains nothing
        self.counts[event.what] += 1
        if isinstance(done, frozenset):
            self._note(event.what, began, killed=done)
        elif done is None:
            self._note(event.what, began)
        else:
            self._note(event.what, began)
            self._lasting.append((began + event.seconds, event.what, began, done))

    def _note(self, what: str, begin: float, killed: frozenset[str] = frozenset()) -> None:
        now = time.monotonic()
        if killed:
            self._scene.faults.append(Fault(what, begin, now, killed))
        self._scene.faults.append(Fault(what, begin, now + AFTERMATH))

    @property
    def file_is_held(self) -> bool:
        """Something lasts that may hold the lock of a broker file: whoever sends would wait for us to undo it."""
        return any(what in ("lock", "stop") for _, what, _, _ in self._lasting)

    def due(self) -> None:
        """Undo what has lasted long enough."""
        now = time.monotonic()
        for entry in [entry for entry in self._lasting if entry[0] <= now]:
            self._lasting.remove(entry)
            self._undo(entry)

    def _undo(self, entry: tuple[float, str, float, Callable[[], object]]) -> None:
        _, what, began, undo = entry
        undo()
        self._note(what, began)

    def heal(self) -> None:
        """Undo everything that lasts."""
        while self._lasting:
            self._undo(self._lasting.pop())
        for actor in self._scene.actors.values():
            if actor.proxy is not None:
                actor.proxy.heal()

    def watch(self) -> None:
        """Note which workers have ended, and start the victim again."""
        now = time.monotonic()
        for actor in self._scene.actors.values():
            if actor.running:
                actor.seen = now
            elif actor.worker is not None:
                code = actor.worker.exit_code
                if actor.name == VICTIM and code == -signal.SIGKILL:
                    self.counts["died"] += 1
                    self._note("died", actor.seen, frozenset({actor.life}))
                else:
                    self.deaths.append(f"{actor.name} ended with {code}")
                actor.worker.close()
                if actor.name == STEADY:
                    actor.worker = None
                else:
                    actor.start()

    # ------------------------------------------------------------ to a process

    def _kill(self, actor: Actor, event: Event) -> None:
        # Noted by `watch`, as any other death.
        if actor.running and actor.worker is not None:
            actor.worker.kill()

    def _kill_child(self, actor: Actor, event: Event) -> frozenset[str]:
        """Kill a process that runs tasks, or, now and then, the one that makes them, and them with it."""
        # A worker whose pool cannot be made does not start, and says so: not what is looked for here.
        if not actor.ready or actor.worker is None:
            return frozenset()
        children = sorted(actor.worker.children(), key=lambda process: process.pid)
        if not children:
            return frozenset()
        chosen = children[int(event.pick * len(children))]
        killed = {chosen.pid}
        with contextlib.suppress(psutil.NoSuchProcess):
            dying = [chosen, *chosen.children(recursive=True)]
            killed |= {process.pid for process in dying}
            chosen.kill()
            # Those that it made die of its death, which takes a moment: what they begin until then is lost, too.
            wait_for(lambda: not any(map(_lives, dying)), _DYING, "killed processes to end")
        return frozenset(map(str, killed))

    def _stop(self, actor: Actor, event: Event) -> Callable[[], object]:
        worker = actor.worker
        if worker is None or not worker.running:
            return lambda: None
        worker.signal(signal.SIGSTOP)
        return lambda: worker.signal(signal.SIGCONT) if worker.running else None

    # ------------------------------------------------------------ to a connection

    def _cut(self, actor: Actor, event: Event) -> None:
        assert actor.proxy is not None
        actor.proxy.cut(reset=event.pick < 0.5)

    def _cut_after(self, actor: Actor, event: Event) -> None:
        assert actor.proxy is not None
        actor.proxy.cut_after(1 + int(event.pick * event.pick * 4000))

    def _freeze(self, actor: Actor, event: Event) -> Callable[[], object]:
        assert actor.proxy is not None
        actor.proxy.freeze()
        return actor.proxy.thaw

    def _slow(self, actor: Actor, event: Event) -> Callable[[], object]:
        assert actor.proxy is not None
        actor.proxy.slow(500 + event.pick * 20_000)
        return actor.proxy.thaw

    def _refuse(self, actor: Actor, event: Event) -> Callable[[], object]:
        assert actor.proxy is not None
        actor.proxy.refuse()
        return actor.proxy.accept

    # ------------------------------------------------------------ to a broker

    def _restart(self, actor: Actor, event: Event) -> None:
        self._scene.server.restart(gently=event.pick < 0.5)

    def _script_flush(self, actor: Actor, event: Event) -> None:
        with self._scene.server.client() as client:
            client.script_flush()

    def _client_kill(self, actor: Actor, event: Event) -> None:
        """End every connection of one kind, the sender's too."""
        with self._scene.server.client() as client:
            kind = "pubsub" if event.pick < 0.3 else "normal"
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def _close_connections(self, actor: Actor, event: Event) -> None:
        """Have the broker close every connection, in good order and with a reason."""
        vhost = self._scene.url.rpartition("/")[2] or "/"
        self._scene.server.ctl("close_all_connections", "--vhost", vhost, "chaos")

    def _lock(self, actor: Actor, event: Event) -> Callable[[], object]:
        """Hold the file's write lock, as a backup or a hanging process might."""
        connection = sqlite3.connect(self._scene.directory / "broker.db", isolation_level=None, timeout=0)
        # It may be taken: by a lock of ours, or by a worker that is stopped just now. So it is held anyway.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("BEGIN IMMEDIATE")
        return connection.close
