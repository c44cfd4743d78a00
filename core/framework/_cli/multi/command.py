"""``framework multi``: the commands, and what they say.

1. `COMMANDS` names them; what stands after a command is read by `words`, so that options of workers need no ``--``.
2. What was done to each node is a line on stdout; what went wrong is on stderr, and the exit code is the first one that
   was not 0. The other nodes are seen to all the same.
3. Nothing is remembered but the pidfiles: whoever stops or restarts gives the options that were given at the start.
"""

from __future__ import annotations

import signal
import sys
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
from framework._cli.output import pass_session, print_json, print_table
from framework._cli.session import CommandSession
from framework.exceptions import FrameworkError
from framework.worker.process.pidfile import watch

#: Seconds between two looks whether processes have ended, and between two dots that say that we still wait.
_GLANCE: Final = 0.1
_DOT: Final = 2.0
#: Global options given before ``multi``, as a worker takes them.
_SHARED: Final = {
    "target": "--app",
    "broker": "--broker",
    "result_backend": "--result-backend",
    "config": "--config",
    "workdir": "--workdir",
}

HELP: Final = """\
Usage: framework multi COMMAND [NODE]... [OPTION OF framework worker]... [-- ARGUMENT...]

Nodes are names (web mail), or a number N (celery1 to celeryN); none: those declared as [nodes.<name>] in
framework.toml. Options are those of framework worker. -c:1-3 5 and -c:web,mail 5 are for some nodes.

Commands:
  start      start the nodes
  stop       send them TERM, or another signal (-9, -QUIT), and return
  stopwait   send it, and wait until they have ended (also: stop_verify)
  restart    stop and start them, each as soon as it has ended
  kill       send them KILL
  status     show which run, and which answer; --json
  show       print the commands that start would run
  names      print the names of the nodes
  get NODE   print the arguments of one node
  expand TEMPLATE
             print the template expanded for each node: %n name, %h name@host, %d host
  help       print this

Options of multi itself:
  --range-prefix PREFIX    of counted nodes; default celery
  --prefix, --suffix TEXT  in front of names, and as their host
  -n, --hostname HOST      the host of the names; default this machine's
  --nosplash, -q, --quiet  less output
  --verbose                print the commands that are run
  --no-color
--app, --broker, --result-backend, --config and --workdir go to every node, and hold for multi itself too.

Default files: /var/run/celery/%n.pid and /var/log/celery/%n%I.log; missing directories are made.
Give the same options to restart as to start, and the same --pidfile to stop: nothing else is remembered.
"""


class Multi:
    """One command about some nodes."""

    def __init__(self, session: CommandSession, words: Words) -> None:
        """Read the config file as the options say. Raises `ConfigError` or `click.UsageError`."""
        self._session = session
        self._words = words
        self.quiet = session.quiet or "quiet" in words.flags
        self._take_shared()
        #: Where the nodes are started: each goes to ``--workdir`` by itself.
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

    def _take_shared(self) -> None:
        """Give the nodes the global options that stood before ``multi``, and the session those that stand after it."""
        session, words = self._session, self._words
        before = []
        for name, spelling in _SHARED.items():
            own = words.value(name)
            if own is not None:
                setattr(session, name, own)
            elif (value := getattr(session, name)) is not None:
                before.append(Word(spelling, name, value, "=", shared=True, literal=True))
        words.options[:0] = before

    # ------------------------------------------------------------ saying

    def say(self, text: str, newline: bool = True) -> None:
        """Print a line about what is going on."""
        if not self.quiet:
            click.echo(text, nl=newline)

    def fail(self, text: str, code: int) -> None:
        """Print what went wrong, and remember it for the exit code."""
        click.echo(text, err=True)
        self.code = self.code or code

    # ------------------------------------------------------------ starting

    def start(self) -> None:
        """Start all nodes, at the same time."""
        self.say("> Starting nodes...")
        launched = [(node, self._launch(node)) for node in self.nodes]
        for node, process in launched:
            self._finish(node, process, f"\t> {node.name}: ")

    def _launch(self, node: ClusterNode) -> Any:
        if "verbose" in self._words.flags:
            self.say(f"\t+ {_command_line(node)}")
        try:
            processes.make_directories(node)
        except FrameworkError as error:
            return error
        return processes.launch(node, self.directory)

    def _finish(self, node: ClusterNode, process: Any, prefix: str) -> None:
        """Wait until the node has begun or failed, and say so."""
        if isinstance(process, FrameworkError):
            text, code = f"framework: error: {process}\n", process.exit_code
        else:
            _, text = process.communicate()
            code = process.returncode
        self.say(prefix + (click.style("FAILED", fg="red") if code else click.style("OK", fg="green")))
        if code:
            self.fail(f"{node.name} did not start:", code)
        if text:
            click.echo("".join(f"\t{line}\n" for line in text.splitlines()), err=True, nl=False)

    # ------------------------------------------------------------ stopping

    def stop(self) -> list[tuple[ClusterNode, int]]:
        """Signal all nodes that run; return them with their processes."""
        signum = self._words.signum or signal.SIGTERM
        running = []
        for node in self.nodes:
            pid = processes.find(node)
            if pid is None:
                self.say(f"> {node.name}: {click.style('DOWN', fg='magenta')}")
            else:
                running.append((node, pid))
        if running:
            self.say("> Stopping nodes...")
        return [each for each in running if self._signal(*each, signum)]

    def _signal(self, node: ClusterNode, pid: int, signum: signal.Signals) -> bool:
        self.say(f"\t> {node.name}: {signum.name.removeprefix('SIG')} -> {pid}")
        try:
            if not processes.send(node, pid, signum):
                self.say(f"\t> {node.name}: {click.style('DOWN', fg='magenta')}")
            return True
        except NodeFailed as error:
            self.fail(f"framework: error: {error}", error.exit_code)
            return False

    def wait(self, running: list[tuple[ClusterNode, int]], then: Callable[[ClusterNode], object]) -> None:
        """Wait until the processes of `running` are gone; `then` hears of each node as it goes."""
        left = running
        runs = {pid: watch(pid) for _, pid in running}
        while left:
            count = f"{len(left)} {'node' if len(left) == 1 else 'nodes'}"
            self.say(f"> Waiting for {count} -> {', '.join(str(pid) for _, pid in left)}", newline=False)
            dot = time.monotonic()
            while not (gone := [node for node, pid in left if not runs[pid]()]):
                if time.monotonic() >= dot:
                    self.say(".", newline=False)
                    sys.stdout.flush()
                    dot += _DOT
                time.sleep(_GLANCE)
            self.say("")
            for node in gone:
                then(node)
            left = [each for each in left if each[0] not in gone]

    def stopwait(self) -> None:
        """Stop all nodes, and wait for their ends."""
        self.wait(self.stop(), lambda node: self.say(f"\t> {node.name}: {click.style('OK', fg='green')}"))

    def restart(self) -> None:
        """Stop all nodes that run, and start all."""
        stopping = self.stop()
        left = [node for node, _ in stopping]
        for node in self.nodes:
            if node not in left and processes.find(node) is None:
                self._again(node)
        self.wait(stopping, self._again)

    def _again(self, node: ClusterNode) -> None:
        self._finish(node, self._launch(node), f"> Restarting node {node.name}: ")

    def kill(self) -> None:
        """Kill all nodes, at once."""
        for node in self.nodes:
            pid = processes.find(node)
            if pid is None:
                self.say(f"> {node.name}: {click.style('DOWN', fg='magenta')}")
                continue
            self.say(f"Killing node {node.name} ({pid})")
            self._signal_quietly(node, pid)

    def _signal_quietly(self, node: ClusterNode, pid: int) -> None:
        try:
            processes.send(node, pid, signal.SIGKILL)
        except NodeFailed as error:
            self.fail(f"framework: error: {error}", error.exit_code)

    # ------------------------------------------------------------ telling

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
        """Print `template` as it is for each node."""
        for node in self.nodes:
            click.echo(node.expand(template))

    def status(self) -> None:
        """Print which nodes run, and which of them answer."""
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
        """Return which of `names` answer; None when nobody can be asked."""
        try:
            replies = self._session.app().control.broadcast("ping", destination=names, reply=True, timeout=1.0)
        except FrameworkError as error:
            click.echo(f"the nodes cannot be asked: {error}", err=True)
            return None
        return {name for reply in replies or () for name in reply}


def _answer(name: str, pid: int | None, answered: set[str] | None) -> str:
    if pid is None or answered is None:
        return "-"
    return "pong" if name in answered else "no answer"


def _command_line(node: ClusterNode) -> str:
    return " ".join([processes.PYTHON, *node.argv()])


#: Commands that change something say who does it first.
_LOUD: Final = ("start", "stop", "stopwait", "restart", "kill")
_QUIET: Final = ("show", "names", "status")
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
    known = (*_LOUD, *_QUIET, *_WITH_WORD)
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
    if name in _LOUD and "nosplash" not in words.flags:
        multi.say(click.style(f"framework multi v{__version__}", fg="cyan", bold=True))
    getattr(multi, name)(*extra)
    return multi.code


class _Raw(click.Command):
    """A command that reads its words itself: click would take the workers' options for its own."""

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
