"""Watch workers and tasks, live.

1. Without options, shows a live screen (`framework_commands.screen`).
2. With ``--dump``, prints a line for each event; with ``--json``, a JSON object per line.
3. With ``--camera``, passes the state to a class at an interval.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
import msgspec

from framework import exitcodes
from framework.events import Dumper
from framework.exceptions import ConfigError, TransportError
from framework.wire.safe_repr import printable_json

if TYPE_CHECKING:
    from framework import App
    from framework.api.command_line import CommandLine


@click.command(help="Watch workers and tasks on a live screen, or print their events.")
@click.option("-d", "--dump", is_flag=True, help="Print a line for each event.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print each event as JSON, one per line.")
@click.option("-c", "--camera", metavar="CLASS", help="Take snapshots with this class: module:Class.")
@click.option("-F", "--freq", "--frequency", type=float, default=1.0, metavar="S", help="Seconds between snapshots.")
@click.option("-r", "--maxrate", metavar="RATE", help="Maximum rate of snapshots, as in 10/m.")
@click.option("--limit", type=int, metavar="N", help="Stop after N events.")
@click.option("--timeout", type=float, metavar="S", help="Stop after S seconds without an event.")
@click.pass_obj
def command(
    line: CommandLine,
    dump: bool,
    as_json: bool,
    camera: str | None,
    freq: float,
    maxrate: str | None,
    limit: int | None,
    timeout: float | None,
) -> int:
    """Show or print events."""
    if dump + as_json + (camera is not None) > 1:
        raise click.UsageError("--dump, --json and --camera exclude each other")
    app = line.app()
    if dump:
        return _print_lines(app, limit, timeout)
    if as_json:
        return _print_json(app, limit, timeout)
    if camera is not None:
        return _run_camera(app, camera, freq, maxrate, limit, timeout)
    if not (sys.stdout.isatty() and sys.stdin.isatty()):
        raise click.UsageError("the live screen needs a terminal; use --dump or --json in a pipe")
    # Start-up time: only the screen needs rich.
    from framework_commands.screen import show

    return show(app, color=not line.no_color)


def _print_lines(app: App, limit: int | None, timeout: float | None) -> int:
    dumper = Dumper()
    disconnected = False

    def report(error: TransportError | None) -> None:
        nonlocal disconnected
        if error is not None and not disconnected:
            click.echo(f"-> Connection lost, attempting reconnect: {error}")
        elif error is None and disconnected:
            click.echo("-> Connected again")
        disconnected = error is not None

    click.echo("-> evdump: starting capture...")
    return _capture(app, lambda event: _print(dumper.line(event)), report, limit, timeout)


def _print_json(app: App, limit: int | None, timeout: float | None) -> int:
    def report(error: TransportError | None) -> None:
        if error is not None:
            click.echo(f"framework: {error}", err=True)

    encode = msgspec.json.Encoder(enc_hook=repr).encode
    return _capture(app, lambda event: _print(printable_json(encode(event).decode())), report, limit, timeout)


def _print(line: str) -> None:
    # Flush each event: a pipe is block-buffered.
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _capture(app: App, handler: Any, on_connection: Any, limit: int | None, timeout: float | None) -> int:
    with app.events.Receiver({"*": handler}) as receiver:
        receiver.on_connection = on_connection
        try:
            receiver.capture(limit, timeout)
        except KeyboardInterrupt:
            click.echo("", err=True)
    return exitcodes.OK


def _run_camera(app: App, name: str, freq: float, maxrate: str | None, limit: int | None, timeout: float | None) -> int:
    if freq <= 0:
        raise click.UsageError("--freq must be more than 0 seconds")
    state = app.events.State()
    camera = _camera(name)(state, app=app, freq=freq, maxrate=maxrate)
    click.echo(f"-> evcam: Taking snapshots with {name} (every {freq:g} secs.)", err=True)

    def report(error: TransportError | None) -> None:
        if error is not None:
            click.echo(f"framework: {error}", err=True)

    with camera:
        return _capture(app, state.event, report, limit, timeout)


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
