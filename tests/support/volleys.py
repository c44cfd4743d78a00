"""Volleys: signals of every kind, in random order, at workers that have late-acknowledged tasks to run.

1. `draw` makes a volley from a seed and a number: a pool, a broker, settings, tasks, and shots. A shot is one signal or
   two at once, to the process or to its whole group, once or over and over, at a moment of the worker's life.
2. `Range.fire` starts a worker, sends it the tasks, shoots at it until it has ended, and has a healthy worker run what
   is left. What it finds wrong is in its `Score`: a task that never ended, one that nobody sent, one that ran twice
   without need, a process left behind, an exit code without a name, a worker that hangs.
3. `make signals` fires 200; ``SIGNALS_SEED=7`` draws others, ``SIGNALS="7:13 7:40"`` fires single ones again. The
   seed fixes what is sent and when, not where in the program it arrives: a bad one may need a few tries.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import Signals
from typing import Any, NamedTuple

from framework import exitcodes
from support import ledger, proj, workers
from support.brokers import PrivateRabbit, PrivateRedis
from support.processes import members
from support.proj import app, note
from support.wait import wait_for

__all__ = ["app"]

POOLS = ("prefork", "threads", "solo", "gevent", "eventlet", "asyncio")
#: Of so many volleys, so many go to each.
BROKERS = {"redis": 5, "sqlite": 3, "amqp": 1}
STOPPING = (Signals.SIGTERM, Signals.SIGINT, Signals.SIGQUIT)
ENDING = (*STOPPING, Signals.SIGHUP)
LOOKING = (Signals.SIGUSR1, Signals.SIGUSR2, Signals.SIGTSTP)
#: Those from which a program that is not there yet cannot protect itself; they are shot at one that is.
DEADLY = (Signals.SIGHUP, Signals.SIGUSR1, Signals.SIGUSR2)
MOMENTS = ("starting", "ready", "running", "draining")
#: Seconds between the shots of one that is repeated.
GAP = 0.005
#: Seconds. Far more than any of it takes.
PATIENCE = 120.0
#: Seconds after which the broker gives out again what a worker had that is gone, or was stopped for so long.
LEASE = 10.0
CODES = {getattr(exitcodes, name) for name in dir(exitcodes) if name.isupper()}


@app.task(name="volleys.late", acks_late=True, ignore_result=True)
def late(entry: str, seconds: float) -> None:
    note(f"start:{entry}")
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.02))
    note(f"end:{entry}")


@app.task(name="volleys.alate", acks_late=True, ignore_result=True)
async def alate(entry: str, seconds: float) -> None:
    note(f"start:{entry}")
    await asyncio.sleep(seconds)
    note(f"end:{entry}")


# ---------------------------------------------------------------- what is drawn


class Shot(NamedTuple):
    """Signals at a moment."""

    signals: tuple[Signals, ...]
    moment: str
    #: Seconds from the moment to the shot.
    pause: float
    group: bool
    times: int

    def __str__(self) -> str:
        names = "+".join(signum.name.removeprefix("SIG") for signum in self.signals)
        times = f"{self.times}*" if self.times > 1 else ""
        return f"{times}{names}@{self.moment}+{self.pause * 1000:.0f}ms{'/group' if self.group else ''}"


class Volley(NamedTuple):
    """One worker, and what is to happen to it."""

    seed: int
    number: int
    pool: str
    broker: str
    concurrency: int
    tasks: tuple[float, ...]
    conf: dict[str, Any]
    remap: bool
    shots: tuple[Shot, ...]

    @property
    def name(self) -> str:
        return f"{self.seed}:{self.number}"

    @property
    def gentle(self) -> bool:
        """Whether nothing in it is a reason for a task to run twice."""
        sent = [signum for shot in self.shots for signum in shot.signals]
        return {Signals.SIGINT, Signals.SIGQUIT, Signals.SIGSTOP}.isdisjoint(sent) and not self.remap and not self.conf

    def __str__(self) -> str:
        extra = [f"{key}={value}" for key, value in self.conf.items()] + ["REMAP_SIGTERM"] * self.remap
        shots = " ".join(map(str, self.shots))
        return f"{self.name} {self.pool} -c {self.concurrency} {self.broker} {len(self.tasks)} tasks {extra}: {shots}"


def draw(seed: int, number: int, brokers: Iterable[str] = tuple(BROKERS)) -> Volley:
    """Return the volley `number` of `seed`."""
    rng = random.Random(f"{seed}:{number}")
    pool = POOLS[number % len(POOLS)]
    shares = {broker: BROKERS[broker] for broker in brokers}
    broker = rng.choices(list(shares), list(shares.values()))[0]
    tasks = tuple(rng.choice((0.0, 0.05, 0.3, 0.8)) * rng.random() for _ in range(rng.randint(4, 12)))
    conf: dict[str, Any] = {}
    if rng.random() < 0.15:
        conf["worker_soft_shutdown_timeout"] = rng.choice((0.1, 0.5))
    if rng.random() < 0.1:
        conf["worker_stop_timeout"] = rng.choice((0.1, 0.5))
    # In the order of a worker's life; what comes at the same moment stays as drawn.
    shots = sorted((_shot(rng) for _ in range(rng.randint(1, 5))), key=lambda shot: MOMENTS.index(shot.moment))
    early = {signum for shot in shots if shot.moment != "draining" for signum in shot.signals}
    if shots[-1].moment == "draining" and early.isdisjoint(ENDING):
        place = next(place for place, shot in enumerate(shots) if shot.moment == "draining")
        shots.insert(place, Shot((rng.choice(ENDING),), "running", rng.random() * 0.2, False, 1))
    return Volley(seed, number, pool, broker, rng.randint(1, 4), tasks, conf, rng.random() < 0.05, tuple(shots))


def _shot(rng: random.Random) -> Shot:
    kinds = (*ENDING, *LOOKING, Signals.SIGSTOP)
    weights = (6, 5, 4, 6, 2, 1, 1, 1)
    count = 2 if rng.random() < 0.3 else 1
    signals = tuple(rng.choices(kinds, weights, k=count))
    moment = rng.choices(MOMENTS, (3, 2, 4, 4))[0]
    # At the start the moments lie far apart, later close together.
    pause = rng.random() * (0.8 if moment == "starting" else rng.choice((0.0, 0.02, 0.2)))
    times = 100 if rng.random() < 0.15 and Signals.SIGSTOP not in signals else 1
    return Shot(signals, moment, pause, rng.random() < 0.3, times)


# ---------------------------------------------------------------- what becomes of it


class Score(NamedTuple):
    """What a volley came to."""

    volley: Volley
    seconds: float
    code: int
    #: Starts that were not the first of their task.
    again: int
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        verdict = "; ".join(self.wrong) or "good"
        return f"{self.volley} -> {self.code}, {self.again} again, {self.seconds:.1f} s: {verdict}"


class Target:
    """The worker that is shot at."""

    def __init__(self, worker: workers.WorkerProcess, volley: Volley, begun: Callable[[], bool]) -> None:
        self.worker = worker
        self.volley = volley
        self._begun = begun

    @property
    def over(self) -> bool:
        return not self.worker.running

    def count(self, text: str) -> int:
        return self.worker.output.count(text)

    @property
    def up(self) -> bool:
        """Whether the program that is there, which HUP may have started anew, has said that it is ready."""
        said = self.worker.output
        begun = said.rfind("[config]")
        return said.rfind("Restarting framework worker (") < begun < said.rfind(" ready.\n")

    def await_moment(self, moment: str) -> None:
        conditions: dict[str, Callable[[], bool]] = {
            "starting": lambda: True,
            "ready": lambda: self.count(" ready.\n") > 0,
            "running": self._begun,
            "draining": lambda: "shutdown (MainProcess)" in self.worker.output,
        }
        reached = conditions[moment]
        wait_for(lambda: self.over or reached(), PATIENCE, lambda: f"{moment}: {self.worker.output[-3000:]}")

    def fire(self, shot: Shot) -> None:
        time.sleep(shot.pause)  # the only thing it is for is to hit another place each time
        for _ in range(shot.times):
            for signum in shot.signals:
                self._send(signum, shot.group)
            if shot.times > 1:
                time.sleep(GAP)
        if Signals.SIGSTOP in shot.signals:
            time.sleep(shot.pause)
            self._send(Signals.SIGCONT, shot.group)

    def _send(self, signum: Signals, group: bool) -> None:
        if signum in DEADLY and self.count("Restarting framework worker (") == 0:
            wait_for(lambda: self.over or not self._would_die(signum), PATIENCE, "a program")
        if not self.over:
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.worker.pid, signum)

    def _would_die(self, signum: int) -> bool:
        try:
            status = Path(f"/proc/{self.worker.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False
        masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith(("SigIgn", "SigCgt")))
        return not (int(masks["SigIgn"], 16) | int(masks["SigCgt"], 16)) >> (signum - 1) & 1


class Range:
    """The brokers, a healthy worker on each, and one ledger."""

    def __init__(self, directory: Path, servers: Iterable[PrivateRedis | PrivateRabbit]) -> None:
        self._directory = directory
        self._book = directory / "ledger"
        self._urls = {"sqlite": f"sqlite:///{directory}/broker.db"}
        self._urls |= {"redis" if isinstance(one, PrivateRedis) else "amqp": one.fresh_url() for one in servers}
        self._stack = contextlib.ExitStack()
        self._clients: dict[str, Any] = {}

    @property
    def brokers(self) -> list[str]:
        return [broker for broker in BROKERS if broker in self._urls]

    def __enter__(self) -> Range:
        with contextlib.ExitStack() as stack:
            healthy = []
            for broker, url in self._urls.items():
                env = self._environment(broker, {})
                options = ("-P", "threads", "-c", "8", "-n", f"healthy@{broker}", "-Q", "idle", "--without-mingle")
                log = self._directory / f"healthy-{broker}.log"
                healthy.append(workers.start_worker(None, *options, app="support.volleys", env=env, log=log))
                stack.enter_context(healthy[-1])
                self._clients[broker] = stack.enter_context(contextlib.closing(proj.make_app(url)))
                self._clients[broker].conf.update(broker_transport_options=_lease(broker))
            for worker in healthy:
                worker.wait_ready(PATIENCE)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _environment(self, broker: str, conf: dict[str, Any]) -> dict[str, str]:
        whole = {"broker_transport_options": _lease(broker), "task_max_deliveries": 100, **conf}
        env = workers.app_environment(broker=self._urls[broker], ledger=self._book, conf=json.dumps(whole))
        return env | {"PYTHONPATH": str(workers.APP_DIR.parent)}

    def fire(self, volley: Volley) -> Score:
        """Fire `volley` at a worker of its own, on a queue of its own."""
        began = time.monotonic()
        queue = f"volley-{volley.number}"
        client = self._clients[volley.broker]
        entries = [f"{volley.number}.{place}" for place in range(len(volley.tasks))]
        env = self._environment(volley.broker, volley.conf) | ({"REMAP_SIGTERM": "SIGQUIT"} if volley.remap else {})
        options = ("-P", volley.pool, "-c", str(volley.concurrency), "-n", f"{queue}@here", "-Q", queue)
        log = self._directory / f"{queue}.log"
        name = "volleys.alate" if volley.pool == "asyncio" and volley.number % 4 else "volleys.late"
        for entry, seconds in zip(entries, volley.tasks, strict=True):
            client.send_task(name, (entry, seconds), queue=queue)
        wrong: list[str] = []
        code = 0
        with workers.start_worker(None, *options, app="support.volleys", env=env, log=log) as worker:
            target = Target(worker, volley, lambda: any(self._starts(volley).values()))
            try:
                self._shoot(target)
                code = worker.wait(PATIENCE)
            except AssertionError as error:
                wrong.append(f"it hangs: {error}")
            else:
                wrong += self._ending(target, code)
        wrong += self._drain(volley, client, queue, entries)
        starts = self._starts(volley)
        again = starts.total() - len(starts)
        if volley.gentle and again and not (code < 0):
            wrong.append(f"ran twice without need: {[entry for entry, count in starts.items() if count > 1]}")
        if wrong:
            wrong.append(f"see {log}")
        return Score(volley, time.monotonic() - began, code, again, tuple(wrong))

    def _shoot(self, target: Target) -> None:
        for shot in target.volley.shots:
            target.await_moment(shot.moment)
            if target.over:
                return
            target.fire(shot)
        # What restarts, or was only looked at, is to end as well; if it is on its way to the end already, this is one
        # more signal at a random place.
        wait_for(lambda: target.over or target.up, PATIENCE, lambda: f"end: {target.worker.output[-3000:]}")
        if not target.over:
            target.worker.signal(Signals.SIGTERM)

    def _ending(self, target: Target, code: int) -> Iterator[str]:
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not members(target.worker.pid), PATIENCE)
        if left := [(process.pid, process.cmdline()[:4]) for process in members(target.worker.pid)]:
            yield f"left behind: {left}"
        # A program that is not up yet may die of what stops it: it has nothing to lose.
        dies = code < 0 and Signals(-code) in STOPPING and not target.up
        if code not in CODES and not dies:
            yield f"exit code {code}"
        if code in CODES and code not in (exitcodes.OK, exitcodes.INTERRUPTED):
            yield f"exit code {code}"
        if "Traceback" in target.worker.output and target.up:
            yield "a traceback in its log"

    def _starts(self, volley: Volley) -> Counter[str]:
        prefix = f"start:{volley.number}."
        return Counter(line for line in ledger.lines(self._book) if line.startswith(prefix))

    def _drain(self, volley: Volley, client: Any, queue: str, entries: list[str]) -> Iterator[str]:
        """Have the healthy worker run what is left; tell what never ended, and what nobody sent."""
        node = [f"healthy@{volley.broker}"]
        client.control.add_consumer(queue, destination=node, reply=True, timeout=PATIENCE, limit=1)
        wanted = {f"end:{entry}" for entry in entries}

        def ended() -> set[str]:
            return wanted & set(ledger.lines(self._book))

        with contextlib.suppress(AssertionError):
            wait_for(lambda: ended() == wanted, PATIENCE)
        if lost := sorted(wanted - ended()):
            yield f"lost: {lost}"
        known = wanted | {f"start:{entry}" for entry in entries}
        ours = (f"start:{volley.number}.", f"end:{volley.number}.")
        if strange := {line for line in ledger.lines(self._book) if line.startswith(ours)} - known:
            yield f"unexpected: {sorted(strange)}"
        client.control.cancel_consumer(queue, destination=node, reply=True, timeout=PATIENCE, limit=1)


def _lease(broker: str) -> dict[str, float]:
    return {} if broker == "amqp" else {"lease": LEASE}


def fire_all(place: Range, volleys: Iterable[Volley], at_once: int, told: Callable[[Score], object]) -> list[Score]:
    """Fire `volleys`, several at a time; `told` hears of each."""
    scores = []
    with ThreadPoolExecutor(at_once) as pool:
        for score in pool.map(place.fire, volleys):
            told(score)
            scores.append(score)
    return scores


def main() -> int:
    """Fire 200 volleys, or those named; return 0 when all is well."""
    # A shell starts what runs in the background with these ignored, and a worker would begin its life deaf to them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    seed, count = int(os.environ.get("SIGNALS_SEED") or 1), int(os.environ.get("COUNT") or 200)
    named = os.environ.get("SIGNALS", "").split()
    pairs = [(int(one), int(other)) for one, _, other in (name.partition(":") for name in named)]
    directory = Path(tempfile.mkdtemp(prefix="test-signals-"))
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(contextlib.closing(make())) for make in (PrivateRedis, PrivateRabbit)]
        for server in servers:
            server.start()
        place = stack.enter_context(Range(directory, servers))
        volleys = [draw(*pair) for pair in pairs or ((seed, number) for number in range(count))]
        sys.stdout.write(f"{len(volleys)} volleys, seed {seed}, logs in {directory}\n")

        def tell(score: Score) -> None:
            sys.stdout.write(f"{score}\n")
            sys.stdout.flush()

        scores = fire_all(place, volleys, int(os.environ.get("JOBS") or 3), tell)
    bad = [score.volley.name for score in scores if score.wrong]
    tasks = sum(len(score.volley.tasks) for score in scores)
    codes = dict(Counter(score.code for score in scores).most_common())
    sys.stdout.write(
        f"{len(scores)} volleys, {tasks} tasks, {sum(score.again for score in scores)} starts again, "
        f"exit codes {codes}; bad: {' '.join(bad) or 'none'}\n"
    )
    if not bad:
        shutil.rmtree(directory, ignore_errors=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
