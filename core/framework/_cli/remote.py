"""``framework status``, ``inspect`` and ``control``: remote control from the command line.

1. Converts the words after a command to its arguments as its registration declares; the rest go to the variadic one.
2. Prints each reply as ``->  node: OK`` (or ERROR) and its indented content; ``--json`` prints one object, by node.
3. Returns different exit codes for no reply, a missing reply and an error reply; names missing workers on stderr.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import click
import msgspec

from framework import exitcodes
from framework._cli.output import json_option, pass_session, print_json, split
from framework._cli.session import CommandSession
from framework._config.nodename import full_name
from framework.wire.safe_repr import printable

if TYPE_CHECKING:
    from framework.api.command import Command
    from framework.wire.control_request import Replies

_INDENT = " " * 8
#: The most characters of a line of a reply; ``--json`` prints everything.
_LINE_MAX = 8192


def _remote_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        json_option,
        click.option("-d", "--destination", metavar="NODE1,NODE2", help="Only these nodes."),
        click.option(
            "-t", "--timeout", type=float, metavar="S", help="Seconds to wait for a reply after the last one."
        ),
    ):
        function = decorate(function)
    return function


@click.command(help="Show which workers are online.")
@_remote_options
@pass_session
def status(session: CommandSession, timeout: float | None, destination: str | None, as_json: bool) -> int:
    """Ping all workers, or those of ``--destination``."""
    return _ask(session, "ping", {}, timeout or 1.0, destination, as_json, count=True, bodies=False)


def _remote(kind: str, what: str) -> click.Command:
    """Return the sub-command that sends commands of `kind`: ``inspect`` or ``control``."""

    @click.command(kind, help=f"{what} `framework {kind} --list` shows all commands.")
    @click.argument("name", metavar="COMMAND", required=False)
    @click.argument("words", nargs=-1, metavar="[ARGUMENT]...")
    @click.option(
        "--list", "listing", is_flag=True, help="List the commands, including those that the application registers."
    )
    @_remote_options
    @pass_session
    def remote(
        session: CommandSession,
        name: str | None,
        words: tuple[str, ...],
        listing: bool,
        timeout: float | None,
        destination: str | None,
        as_json: bool,
    ) -> int:
        if listing:
            return _list(session, kind, as_json)
        return _run(session, kind, name, words, timeout, destination, as_json)

    return remote


inspect = _remote("inspect", "Query the workers.")
control = _remote("control", "Send a command to the workers.")


def _list(session: CommandSession, kind: str, as_json: bool) -> int:
    session.app()  # first: importing the application may register commands
    commands = _commands(kind)
    if as_json:
        print_json([{"name": each.name, "usage": each.usage, "help": each.help} for each in commands])
        return exitcodes.OK
    width = max(len(each.usage) for each in commands)
    for each in commands:
        click.echo(f"{each.usage:<{width}}  {each.help}")
    return exitcodes.OK


def _run(
    session: CommandSession,
    kind: str,
    name: str | None,
    words: Sequence[str],
    timeout: float | None,
    destination: str | None,
    as_json: bool,
) -> int:
    if name is None:
        raise click.UsageError(f"no command given: framework {kind} --list shows all")
    session.app()  # first: importing the application may register commands
    command = _find(kind, name)
    try:
        arguments = command.parse(words)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return _ask(
        session,
        command.name,
        arguments,
        timeout or command.default_timeout,
        destination,
        as_json,
        count=kind == "inspect",
    )


def _commands(kind: str) -> list[Command]:
    # Start-up time: `status` does not need the worker.
    from framework.worker.steps.control.commands import PANEL

    return [command for command in PANEL if command.kind == kind and command.visible]


def _find(kind: str, name: str) -> Command:
    known = {alias: command for command in _commands(kind) for alias in (command.name, command.alias) if alias}
    if name in known:
        return known[name]
    near = get_close_matches(name, known, 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else f" (framework {kind} --list shows all)"
    raise click.UsageError(f"there is no {kind} command {name}{hint}")


def _ask(
    session: CommandSession,
    name: str,
    arguments: dict[str, Any],
    timeout: float,
    destination: str | None,
    as_json: bool,
    *,
    count: bool,
    bodies: bool = True,
) -> int:
    nodes = split(destination) or None
    replies = session.app().control.broadcast(name, arguments, destination=nodes, reply=True, timeout=timeout)
    assert replies is not None
    merged = {node: answer for reply in replies for node, answer in reply.items()}
    if as_json:
        print_json(merged)
    else:
        for node, answer in (item for reply in replies for item in reply.items()):
            _print_reply(node, answer, bodies and not session.quiet)
    if not merged:
        click.echo("Error: No nodes replied within time constraint", err=True)
        _print_missing(replies)
        _print_near(session, nodes or (), timeout)
        return exitcodes.UNAVAILABLE
    if count and not as_json and not session.quiet:
        click.echo(f"\n{len(replies)} {'node' if len(replies) == 1 else 'nodes'} online.")
    for node, number in replies.namesakes.items():
        click.echo(f"Warning: {number} workers are called {node}: give each its own name with -n", err=True)
    missing = _print_missing(replies)
    if any(_is_error(answer) for reply in replies for answer in reply.values()):
        return exitcodes.REFUSED
    return exitcodes.INCOMPLETE if missing else exitcodes.OK


def _is_error(answer: Any) -> bool:
    return isinstance(answer, dict) and "error" in answer


def _print_missing(replies: Replies) -> bool:
    """Print the workers that did not answer; return whether any is missing."""
    for node, age in replies.missing.items():
        click.echo(f"missing: {printable(node)}" + ("" if age is None else f", last seen {age:.0f} s ago"), err=True)
    unnamed = replies.silent - len(replies.missing)
    if unnamed > 0:
        click.echo(f"missing: {unnamed} {'worker' if unnamed == 1 else 'workers'} that did not give a name", err=True)
    return bool(replies.missing) or unnamed > 0


def _print_near(session: CommandSession, nodes: Iterable[str], timeout: float) -> None:
    """Print the workers that may have been meant by `nodes`, none of which answered."""
    if nodes:
        running = sorted(session.app().control.ping(timeout=timeout).nodes)
        for node in map(full_name, nodes):
            host = node.partition("@")[2]
            near = [name for name in running if name.partition("@")[2] == host] or get_close_matches(node, running, 3)
            if near:
                click.echo(f"{printable(node)}: did you mean {printable(' or '.join(near))}?", err=True)


def _print_reply(node: str, answer: Any, body: bool) -> None:
    failed = _is_error(answer)
    click.echo(f"->  {printable(node)}: {click.style('ERROR', fg='red') if failed else click.style('OK', fg='green')}")
    if not body and not failed:
        return
    content = answer
    if isinstance(answer, dict) and len(answer) == 1 and ("ok" in answer or failed):
        content = answer["error"] if failed else answer["ok"]
    for line in _lines(content):
        click.echo(_INDENT + printable(line, "", _LINE_MAX))


def _lines(content: Any) -> list[str]:
    if isinstance(content, (list, tuple)):
        return [f"* {item if isinstance(item, str) else _json(item)}" for item in content] or ["- empty -"]
    if isinstance(content, str):
        return content.split("\n")
    return _json(content, 4).splitlines()


def _json(value: Any, indent: int = -1) -> str:
    return msgspec.json.format(msgspec.json.encode(value, enc_hook=repr), indent=indent).decode()
