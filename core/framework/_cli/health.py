"""``framework health``: probes workers on this machine through their health endpoint.

1. Finds the endpoint as the worker does, in the config file, the environment or ``--health``, without importing the
   application.
2. Sends one request, without using the broker, and returns an exit code for exec probes.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any, Final

import click
import msgspec

from framework import exitcodes
from framework._cli.output import json_option, pass_session, print_json, print_table, split
from framework._cli.session import CommandSession
from framework._config.health import HealthAddress, health_address
from framework._config.nodename import node_name
from framework._config.settings import Settings
from framework._config.sources import resolve
from framework.exceptions import ConfigError

#: Maximum size of a response, in bytes.
_ANSWER_MAX: Final = 1 << 20


class Condition(msgspec.Struct):
    """The health of a worker, as its endpoint reports it."""

    node: str
    live: bool = False
    ready: bool = False
    reasons: list[str] = []
    pid: int | None = None
    missing_steps: dict[str, str] = {}
    #: The endpoint that was probed.
    address: str = ""

    @property
    def word(self) -> str:
        """The condition in one to three words."""
        if not self.live:
            return "not live"
        return "ready" if self.ready else "live, not ready"


@click.command(
    help="Probe workers on this machine through their health endpoint (--health of framework worker). "
    "Exit codes: 0 all are live, 69 a worker is not live or does not respond, 75 a worker does not consume (--ready), "
    "78 no endpoint is configured."
)
@click.option("--ready", "require_ready", is_flag=True, help="Require that they consume, too.")
@click.option(
    "-d", "--destination", metavar="NODE1,NODE2", help="Nodes, also as in [nodes.NAME]. Default: the one of [worker]."
)
@click.option("--health", "given", metavar="ADDRESS", help="Endpoint: a port, HOST:PORT or a unix socket.")
@click.option("-t", "--timeout", type=click.FloatRange(0.01), default=5.0, show_default=True, help="Seconds to wait.")
@json_option
@pass_session
def command(
    session: CommandSession,
    require_ready: bool,
    destination: str | None,
    given: str | None,
    timeout: float,
    as_json: bool,
) -> int:
    """Probe the workers and print their condition."""
    settings = resolve(session.sources()).settings
    names: list[str | None] = [*split(destination)] or [None]
    where = [_find(settings, name, given) for name in names]
    found = [_ask(node, address, timeout) for node, address in where]
    if as_json:
        print_json([msgspec.to_builtins(each) for each in found])
    elif not session.quiet:
        rows = [(each.node, each.word, "; ".join(each.reasons)) for each in found]
        print_table(session, ("node", "condition", "why"), rows)
        for each in found:
            for step, reason in each.missing_steps.items():
                click.echo(f"{each.node} runs without the step {step}, which {reason}", err=True)
    if not all(each.live for each in found):
        return exitcodes.UNAVAILABLE
    return exitcodes.INCOMPLETE if require_ready and not all(each.ready for each in found) else exitcodes.OK


def _find(settings: Settings, name: str | None, given: str | None) -> tuple[str, HealthAddress]:
    """Return the node's full name and its endpoint. Raises `ConfigError`."""
    table: dict[str, Any] = {}
    if name is not None:
        table = settings.nodes.get(name) or settings.nodes.get(name.partition("@")[0]) or {}
    full = name if name is not None and "@" in name else f"{name}@%h" if name is not None else None
    node = node_name(table.get("hostname") or full or settings.worker.hostname)
    value = given if given is not None else table.get("health", settings.worker.health)
    if value is None:
        raise ConfigError(
            f"no health endpoint is configured for {node}: put health = 9808, or a path, under [worker] in "
            f"framework.toml and restart the worker, or give the address that it was started with: --health ADDRESS"
        )
    address = health_address(value, node)
    if not address.path and not address.port:
        raise ConfigError(
            "health is port 0, so the system chose the port: give the one in the worker's log as --health"
        )
    return node, address


def _ask(node: str, address: HealthAddress, timeout: float) -> Condition:
    try:
        text = _request(address, timeout)
        condition = msgspec.json.decode(text.partition(b"\r\n\r\n")[2], type=Condition)
    except TimeoutError:
        return Condition(node, reasons=[f"no response within {timeout:g} s"], address=str(address))
    except OSError as error:
        why = f"nothing answers on {address}: {(error.strerror or str(error)).lower()}"
        return Condition(node, reasons=[why], address=str(address))
    except msgspec.MsgspecError:
        return Condition(node, reasons=[f"the response on {address} is not from a worker"], address=str(address))
    condition.address = str(address)
    return condition


def _request(address: HealthAddress, timeout: float) -> bytes:
    """Request ``/readyz`` and return the raw response. Raises `TimeoutError` or another `OSError`."""
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        if address.path:
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.settimeout(timeout)
            client.connect(address.path)
        else:
            client = stack.enter_context(socket.create_connection(address.client, timeout))
        client.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        text = b""
        while len(text) < _ANSWER_MAX:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            client.settimeout(left)
            data = client.recv(65536)
            if not data:
                break
            text += data
        return text
