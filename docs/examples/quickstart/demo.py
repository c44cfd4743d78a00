"""The main job from end to end, on the embedded broker: `make demo`.

1. Puts `tasks.py` into an empty directory; there is no server and no configuration.
2. Starts `framework -A tasks worker` there and waits for its ready line.
3. Sends a few hundred tasks, one that fails and one that is retried; compares every result.
4. Asks the running worker how it is: `framework inspect ping`, `framework inspect stats`.
5. Stops it with TERM. Whatever is not as it should be ends the demo with exit code 1 and the worker's log.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).parent
TASKS = 300
DEADLINE = 60.0
FRAMEWORK = str(Path(sys.executable).with_name("framework"))


def say(text: str) -> None:
    """Print one line, at once."""
    print(text, flush=True)  # noqa: T201 - a demo prints


class Demo:
    """One run, in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "worker.log"
        self.worker: subprocess.Popen[bytes] | None = None

    def fail(self, reason: str) -> NoReturn:
        """End the demo, saying why."""
        say(f"\nFAILED: {reason}")
        if self.log.exists():
            say("The worker said:\n" + self.log.read_text(errors="replace"))
        raise SystemExit(1)

    def command(self, *args: str) -> str:
        """Run a `framework` command; returns what it printed."""
        done = subprocess.run(
            [FRAMEWORK, *args], cwd=self.directory, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        if done.returncode:
            self.fail(f"framework {' '.join(args)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self) -> float:
        """Start the worker; returns the seconds until it was ready."""
        begun = time.monotonic()
        with self.log.open("wb") as log:
            self.worker = subprocess.Popen(
                [FRAMEWORK, "-A", "tasks", "worker", "--concurrency", "2", "--loglevel", "info"],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while " ready." not in self.log.read_text(errors="replace"):
            if self.worker.poll() is not None:
                self.fail(f"the worker ended with {self.worker.returncode} instead of getting ready")
            if time.monotonic() - begun > DEADLINE:
                self.fail(f"the worker was not ready within {DEADLINE:.0f} s")
            time.sleep(0.01)
        return time.monotonic() - begun

    def send_and_compare(self) -> None:
        """Send tasks with the client and look at every result."""
        sys.path.insert(0, str(self.directory))
        import tasks

        begun = time.monotonic()
        results = [tasks.add.delay(number, number) for number in range(TASKS)]
        sent = time.monotonic()
        say(f"sent      {TASKS} tasks add(n, n) in {sent - begun:.2f} s")
        answers = [result.get(timeout=DEADLINE) for result in results]
        if answers != [2 * number for number in range(TASKS)]:
            self.fail(f"wrong sums: {answers[:10]}")
        say(f"results   all {TASKS} right, the last {time.monotonic() - sent:.2f} s later: {answers[:4]} ...")

        try:
            tasks.divide.delay(1, 0).get(timeout=DEADLINE)
        except ZeroDivisionError as error:
            say(f"failing   divide(1, 0) raises here what it raised there: {error!r}")
        else:
            self.fail("divide(1, 0) should have failed")

        answer = tasks.flaky.delay(2).get(timeout=DEADLINE)
        if answer != "worked at attempt 3":
            self.fail(f"flaky(2) should have worked at attempt 3, but: {answer!r}")
        say(f"retried   flaky(2) {answer}")

    def ask(self) -> None:
        """Show remote control: the worker answers while it runs."""
        pong = self.command("-A", "tasks", "inspect", "ping")
        if "pong" not in pong:
            self.fail(f"nobody answered the ping: {pong}")
        say("ping      " + " ".join(pong.split()))
        replies: dict[str, Any] = json.loads(self.command("-A", "tasks", "inspect", "stats", "--json"))
        for node, stats in replies.items():
            say(f"stats     {node}: pid {stats['pid']}, total {stats['total']}")
            if stats["total"].get("tasks.add") != TASKS:
                self.fail(f"the worker counted {stats['total']}, {TASKS} of tasks.add were sent")
        if len(replies) != 1:
            self.fail(f"one worker should have answered, but: {replies}")

    def stop(self) -> float:
        """Ask the worker to stop; returns the seconds that it took."""
        assert self.worker is not None
        begun = time.monotonic()
        self.worker.send_signal(signal.SIGTERM)
        try:
            code = self.worker.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.fail(f"the worker did not stop within {DEADLINE:.0f} s")
        if code:
            self.fail(f"the worker stopped with exit code {code}")
        return time.monotonic() - begun

    def clean_up(self) -> None:
        """Leave no process behind."""
        if self.worker is not None and self.worker.poll() is None:
            os.killpg(self.worker.pid, signal.SIGKILL)
            self.worker.wait()


def main() -> None:
    """Run the demo in a directory of its own."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="framework-demo-") as name:
        directory = Path(name)
        shutil.copy(HERE / "tasks.py", directory)
        os.chdir(directory)
        demo = Demo(directory)
        try:
            say(f"started   framework -A tasks worker, ready after {demo.start():.2f} s")
            demo.send_and_compare()
            demo.ask()
            say(f"stopped   by TERM, exit code 0, after {demo.stop():.2f} s")
        finally:
            demo.clean_up()
    say(f"done      in {time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    main()
