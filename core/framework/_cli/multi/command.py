"""``framework multi``: the commands and their output.

1. Parses all words after the command with `words`, so that options of workers need no ``--``.
2. Prints an action for each node on stdout and errors on stderr. An error on one node does not stop the others; the
   exit code is the first that is not 0.
3. Keeps no state except the pidfiles: `stop` and `restart` need the options that were given to `start`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, Final

import click

from framework import __version__, exitcodes
from framework._cli.multi import processes
from framework._cli.multi.cluster import ClusterNode, cluster
from framework._cli.multi.processes import NodeFailed
from framework._cli.multi.words import Word, Words, read
from framework._cli.output import note, pass_session, print_json, print_table
from framework._cli.session import CommandSession
from framework.exceptions import FrameworkError
from framework.worker.process.pidfile import watch

#: Seconds between two checks whether processes have ended, and between two dots of the progress output.
_CHECK_INTERVAL: Final = 0.1
_DOT_INTERVAL: Final = 2.0
#: Global options given before ``multi``, with the worker's spelling.
_SHARED: Final = {
    "target": "--app",
    "broker": "--broker",
    "result_backend": "--result-backend",
    "config": "--config",
    "workdir": "--workdir",
}

HELP: Final = """\
Usage: framework multi COMMAND [NODE]... [OPTION OF framework worker]... [-- ARGUMENT...]

Nodes are names (web mail), or a number N (celery1 to celeryN); without any, the tables [nodes.<name>] of
framework.toml. Options are those of framework worker. -c:1-3 5 and -c:web,mail 5 apply to some nodes only.

Commands:
  start      start the nodes
  stop       send TERM, or another signal (-9, -QUIT), to the nodes and return
  stopwait   send the signal and wait until the nodes have ended (also: stop_verify)
  restart    stop the nodes and start each one as soon as it has ended
  kill       send KILL to the nodes
  status     show which nodes run and which reply to a ping; --json
  show       print the commands that `start` would run
  names      print the names of the nodes
  get NODE   print the arguments of one node
  expand TEMPLATE
             print the template expanded for each node: %n name, %h name@host, %d host
  help       print this

Options of multi itself:
  --range-prefix PREFIX    prefix of numbered nodes; default celery
  --prefix, --suffix TEXT  prefix of the names; host of the names
  -n, --hostname HOST      host of the names; default this machine
  --nosplash, -q, --quiet  less output
  --verbose                print the commands that are run
  --no-color
--app, --broker, --result-backend, --config and --workdir apply to every node and to multi itself.

Default files: /var/run/celery/%n.pid and /var/log/celery/%n%I.log; missing directories are created.
Give restart the same options as start, and stop the same --pidfile: multi keeps no state of its own.
"""


class Multi:
    """One run of a command on some nodes."""

    def __init__(self, session: CommandSession, words: Words) -> None:
        """Read the configuration and make the nodes. Raises `ConfigError` or `click.UsageError`."""
        self._session = session
        self._words = words
        self.quiet = session.quiet or "quiet" in words.flags
        self._merge_shared()
        #: The working directory in which the nodes are started; each changes to ``--workdir`` itself.
        self.directory = session.origin
        sources = session.sources()
        self.directory = session.origin
        configured = {
            key: value
            for key in ("worker_pidfile", "worker_logfile", "worker_state_db", "worker_executable")
            if (value := sources.value(key))
        }
        self.nodes = cluster(words, sources.value("nodes") or {}, configured)
        self.code = exitcodes.OK

    def _merge_shared(self) -> None:
        """Copy global options given before ``multi`` to the nodes, and those given after it to the session."""
        session, words = self._session, self._words
        before = []
        for name, spelling in _SHARED.items():
            own = words.value(name)
            if own is not None:
                setattr(session, name, own)
            elif (value := getattr(session, name)) is not None:
                before.append(Word(spelling, name, value, "=", shared=True, literal=True))
        words.options[:0] = before

    # ------------------------------------------------------------ output

    def echo(self, text: str, newline: bool = True) -> None:
        """Print `text` unless the output is to be quiet."""
        if not self.quiet:
            note(text, err=False, newline=newline)

    def fail(self, text: str, code: int) -> None:
        """Print the error `text`; keep `code` as the exit code unless an earlier error has set it."""
        note(text)
        self.code = self.code or code

    # ------------------------------------------------------------ starting

    def start(self) -> None:
        """Start all nodes at the same time."""
        self.echo("> Starting nodes...")
        launched = [(node, self._launch(node)) for node in self.nodes]
        for node, process in launched:
            self._finish(node, process, f"\t> {node.name}: ")

    def _launch(self, node: ClusterNode) -> Any:
        if "verbose" in self._words.flags:
            self.echo(f"\t+ {_command_line(node)}")
        try:
            processes.make_directories(node)
        except FrameworkError as error:
            return error
        return processes.launch(node, self.directory)

    def _finish(self, node: ClusterNode, process: Any, prefix: str) -> None:
        """Wait until the node has started or failed, and print the result."""
        if isinstance(process, FrameworkError):
            text, code = f"framework: error: {process}\n", process.exit_code
        else:
            _, text = process.communicate()
            code = process.returncode
        self.echo(prefix + (click.style("FAILED", fg="red") if code else click.style("OK", fg="green")))
        if code:
            self.fail(f"{node.name} did not start:", code)
        if text:
            note("".join(f"\t{line}\n" for line in text.splitlines()), newline=False)

    # ------------------------------------------------------------ stopping

    def stop(self) -> list[tuple[ClusterNode, int]]:
        """Signal all running nodes; return each with its pid."""
        signum = self._words.signum or signal.SIGTERM
        running = []
        for node in self.nodes:
            pid = processes.find(node)
            if pid is None:
                self.echo(f"> {node.name}: {click.style('DOWN', fg='magenta')}")
            else:
                running.append((node, pid))
        if running:
            self.echo("> Stopping nodes...")
        return [each for each in running if self._signal(*each, signum)]

    def _signal(self, node: ClusterNode, pid: int, signum: signal.Signals) -> bool:
        self.echo(f"\t> {node.name}: {signum.name.removeprefix('SIG')} -> {pid}")
        try:
            if not processes.send(node, pid, signum):
                self.echo(f"\t> {node.name}: {click.style('DOWN', fg='magenta')}")
            return True
        except NodeFailed as error:
            self.fail(f"framework: error: {error}", error.exit_code)
            return False

    def wait(self, running: list[tuple[ClusterNode, int]], then: Callable[[ClusterNode], object]) -> None:
        """Wait until all processes of `running` have ended; call `then` with each node as its process ends."""
        remaining = running
        runs = {pid: watch(pid) for _, pid in running}
        while remaining:
            count = f"{len(remaining)} {'node' if len(remaining) == 1 else 'nodes'}"
            self.echo(f"> Waiting for {count} -> {', '.join(str(pid) for _, pid in remaining)}", newline=False)
            dot = time.monotonic()
            while not (gone := [node for node, pid in remaining if not runs[pid]()]):
                if time.monotonic() >= dot:
                    self.echo(".", newline=False)
                    dot += _DOT_INTERVAL
                time.sleep(_CHECK_INTERVAL)
            self.echo("")
            for node in gone:
                then(node)
            remaining = [each for each in remaining if each[0] not in gone]

    def stopwait(self) -> None:
        """Stop all nodes and wait until they have ended."""
        self.wait(self.stop(), lambda node: self.echo(f"\t> {node.name}: {click.style('OK', fg='green')}"))

    def restart(self) -> None:
        """Stop the running nodes, and start all nodes."""
        stopping = self.stop()
        signalled = [node for node, _ in stopping]
        for node in self.nodes:
            if node not in signalled and processes.find(node) is None:
                self._start_again(node)
        self.wait(stopping, self._start_again)

    def _start_again(self, node: ClusterNode) -> None:
        self._finish(node, self._launch(node), f"> Restarting node {node.name}: ")

    def kill(self) -> None:
        """Send SIGKILL to all running nodes."""
        for node in self.nodes:
            pid = processes.find(node)
            if pid is None:
                self.echo(f"> {node.name}: {click.style('DOWN', fg='magenta')}")
                continue
            self.echo(f"Killing node {node.name} ({pid})")
            self._signal_quietly(node, pid)

    def _signal_quietly(self, node: ClusterNode, pid: int) -> None:
        try:
            processes.send(node, pid, signal.SIGKILL)
        except NodeFailed as error:
            self.fail(f"framework: error: {error}", error.exit_code)

    # ------------------------------------------------------------ information

    def show(self) -> None:
        """Print the command line of each node."""
        for node in self.nodes:
            click.echo(_command_line(node))

    def names(self) -> None:
        """Print the name of each node."""
        for node in self.nodes:
            click.echo(node.name)

    def get(self, name: str) -> None:
        """Print the arguments of the node `name`."""
        node = next((node for node in self.nodes if name in (node.name, node.short)), None)
        if node is None:
            self.fail(f"there is no node {name} among {', '.join(each.name for each in self.nodes)}", 1)
        else:
            click.echo(" ".join(node.argv()))

    def expand(self, template: str) -> None:
        """Print `template` expanded for each node."""
        for node in self.nodes:
            click.echo(node.expand(template))

    def status(self) -> None:
        """Print which nodes run and which of them reply to a ping."""
        found = {node.name: processes.find(node) for node in self.nodes}
        running = [name for name, pid in found.items() if pid is not None]
        answered = self._ping(running) if running else set()
        if "json" in self._words.flags:
            print_json(
                {
                    name: {"pid": pid, "alive": pid is not None, "ping": None if answered is None else name in answered}
                    for name, pid in found.items()
                }
            )
        else:
            rows = [
                (name, pid or "-", "up" if pid else "down", _answer(name, pid, answered)) for name, pid in found.items()
            ]
            print_table(self._session, ("node", "process", "state", "ping"), rows)
        if len(running) < len(found) or (answered is not None and not answered.issuperset(running)):
            self.code = exitcodes.INCOMPLETE if running else exitcodes.UNAVAILABLE

    def _ping(self, names: list[str]) -> set[str] | None:
        """Return which of `names` reply to a ping; None: the ping cannot be sent."""
        try:
            replies = self._session.app().control.broadcast("ping", destination=names, reply=True, timeout=1.0)
        except FrameworkError as error:
            click.echo(f"the nodes cannot be pinged: {error}", err=True)
            return None
        return {name for reply in replies or () for name in reply}


def _answer(name: str, pid: int | None, answered: set[str] | None) -> str:
    if pid is None or answered is None:
        return "-"
    return "pong" if name in answered else "no answer"


def _command_line(node: ClusterNode) -> str:
    return " ".join([processes.PYTHON, *node.argv()])


#: Commands that change nodes; they print the version first.
_CHANGING: Final = ("start", "stop", "stopwait", "restart", "kill")
_READING: Final = ("show", "names", "status")
#: Commands whose first word is not a node.
_WITH_WORD: Final = {"get": "the name of a node", "expand": "a template, as in %n.log"}
_ALIASES: Final = {"stop_verify": "stopwait"}


def _run(session: CommandSession, args: Sequence[str]) -> int:
    given = next((index for index, word in enumerate(args) if not word.startswith("-")), None)
    before_rest = args[: args.index("--")] if "--" in args else args
    if given is None or args[given] == "help" or {"-h", "--help"}.intersection(before_rest):
        click.echo(HELP, nl=False)
        return exitcodes.OK if args else exitcodes.USAGE
    name = _ALIASES.get(args[given], args[given])
    known = (*_CHANGING, *_READING, *_WITH_WORD)
    if name not in known:
        near = get_close_matches(name, known, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else f" (there are {', '.join(known)})"
        raise click.UsageError(f"there is no command {name} of multi{hint}")
    words = read([*args[:given], *args[given + 1 :]], signals=name in ("stop", "stopwait", "restart"))
    if "no_color" in words.flags:
        click.get_current_context().color = False
    extra: list[str] = []
    if name in _WITH_WORD:
        if not words.names:
            raise click.UsageError(f"framework multi {name} needs {_WITH_WORD[name]}")
        extra = [words.names.pop(0)]
    multi = Multi(session, words)
    if name in _CHANGING and "nosplash" not in words.flags:
        multi.echo(click.style(f"framework multi v{__version__}", fg="cyan", bold=True))
    getattr(multi, name)(*extra)
    return multi.code


class _Raw(click.Command):
    """A command that parses its own arguments, because click would reject the options of workers."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.params = {"words": tuple(args)}
        return []

    def get_help(self, ctx: click.Context) -> str:
        return HELP.rstrip()


@pass_session
def _callback(session: CommandSession, words: tuple[str, ...]) -> int:
    return _run(session, words)


command = _Raw(
    "multi",
    params=[click.Argument(("words",), nargs=-1, metavar="COMMAND [NODE]... [OPTION]... [-- ARGUMENT...]")],
    callback=_callback,
    add_help_option=False,
)
