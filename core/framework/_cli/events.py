"""``framework events``: watch workers and tasks, live.

1. Without options a live screen (`framework._cli.screen`).
2. ``--dump`` prints a line for each event, ``--json`` an object on a line of its own: for pipes.
3. ``--camera`` hands the state to a class every so often, for those who store it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
import msgspec

from framework import exitcodes
from framework._cli.output import pass_session
from framework._cli.session import CommandSession
from framework.client.events.dumper import Dumper
from framework.exceptions import ConfigError, TransportError

if TYPE_CHECKING:
    from framework.client.app import App


@click.command(help="Watch workers and tasks on a live screen, or print what they tell.")
@click.option("-d", "--dump", is_flag=True, help="Print a line for each event.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print each event as JSON, one on a line.")
@click.option("-c", "--camera", metavar="CLASS", help="Take snapshots with this class: module:Class.")
@click.option("-F", "--freq", "--frequency", type=float, default=1.0, metavar="S", help="Seconds between snapshots.")
@click.option("-r", "--maxrate", metavar="RATE", help="Most snapshots, as in 10/m.")
@click.option("--limit", type=int, metavar="N", help="End after so many events.")
@click.option("--timeout", type=float, metavar="S", help="End when no event has come for so many seconds.")
@pass_session
def command(
    session: CommandSession,
    dump: bool,
    as_json: bool,
    camera: str | None,
    freq: float,
    maxrate: str | None,
    limit: int | None,
    timeout: float | None,
) -> int:
    """Watch."""
    if dump + as_json + (camera is not None) > 1:
        raise click.UsageError("--dump, --json and --camera exclude each other")
    app = session.app()
    if dump:
        return _print_lines(app, limit, timeout)
    if as_json:
        return _print_json(app, limit, timeout)
    if camera is not None:
        return _photograph(app, camera, freq, maxrate, limit, timeout)
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise click.UsageError("the live screen needs a terminal; use --dump or --json in a pipe")
    # Start-up time: the screen imports rich, which lines in a pipe do not need.
    from framework._cli.screen import show

    return show(app, color=not session.no_color)


def _print_lines(app: App, limit: int | None, timeout: float | None) -> int:
    dumper = Dumper()
    away = False

    def tell(error: TransportError | None) -> None:
        nonlocal away
        if error is not None and not away:
            click.echo(f"-> Connection lost, attempting reconnect: {error}")
        elif error is None and away:
            click.echo("-> Connected again")
        away = error is not None

    click.echo("-> evdump: starting capture...")
    return _capture(app, lambda event: _print(dumper.line(event)), tell, limit, timeout)


def _print_json(app: App, limit: int | None, timeout: float | None) -> int:
    def tell(error: TransportError | None) -> None:
        if error is not None:
            click.echo(f"framework: {error}", err=True)

    encode = msgspec.json.Encoder(enc_hook=repr).encode
    return _capture(app, lambda event: _print(encode(event).decode()), tell, limit, timeout)


def _print(line: str) -> None:
    # A pipe gets each event when it comes, not with the next eight kilobytes.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _capture(app: App, handler: Any, tell: Any, limit: int | None, timeout: float | None) -> int:
    with app.events.Receiver({"*": handler}) as receiver:
        receiver.on_connection = tell
        try:
            receiver.capture(limit, timeout)
        except KeyboardInterrupt:
            click.echo("", err=True)
    return exitcodes.OK


def _photograph(app: App, name: str, freq: float, maxrate: str | None, limit: int | None, timeout: float | None) -> int:
    if freq <= 0:
        raise click.UsageError("--freq must be more than 0 seconds")
    state = app.events.State()
    camera = _camera(name)(state, app=app, freq=freq, maxrate=maxrate)
    click.echo(f"-> evcam: Taking snapshots with {name} (every {freq:g} secs.)", err=True)

    def tell(error: TransportError | None) -> None:
        if error is not None:
            click.echo(f"framework: {error}", err=True)

    with camera:
        return _capture(app, state.event, tell, limit, timeout)


def _camera(name: str) -> Any:
    """Import the class `name`, as ``module:Class`` or ``module.Class``."""
    module, colon, attribute = name.partition(":")
    if not colon:
        module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"the camera {name!r} cannot be imported: {error}; wanted module:Class") from error
    for method in ("on_shutter", "install", "cancel"):
        if not callable(getattr(found, method, None)):
            raise ConfigError(f"the camera {name!r} has no {method}: make it a subclass of framework.events.Polaroid")
    return found
