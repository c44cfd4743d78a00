"""The banner: the worker's settings and queues, printed before it starts."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from typing import Any

from framework import __version__
from framework._config.autoscale import autoscale_range
from framework.api.transport import Queue
from framework.client.routing import known_as
from framework.wire.safe_repr import printable


def banner(
    settings: Any,
    hostname: str,
    target: str,
    concurrency: int,
    transport_url: str,
    results_url: str,
    queues: Sequence[Queue],
) -> str:
    """Return the banner's text."""
    slots: object = concurrency
    if settings.worker.autoscale is not None:
        largest, smallest = autoscale_range(settings.worker.autoscale)
        slots = f"{{min={smallest}, max={largest}}}"
    events = "ON" if settings.worker.send_task_events else "OFF"
    lines = [
        f"{hostname} v{__version__}",
        "",
        f"{platform.platform()} - Python {platform.python_version()}",
        "",
        "[config]",
        f".> app:         {target}",
        f".> transport:   {transport_url}",
        f".> results:     {results_url}",
        f".> concurrency: {slots} ({settings.worker.pool})",
        f".> task events: {events}",
        "",
        "[queues]",
        *(
            printable(
                f".> {known_as(queue):<16} exchange={queue.exchange.name or queue.name}({queue.exchange.type}) "
                f"key={queue.routing_key}"
            )
            for queue in queues
        ),
    ]
    return "\n".join(lines) + "\n"


def task_list(names: Iterable[str], builtins: bool) -> str:
    """Return the list of tasks; `builtins` includes those whose name starts with ``celery.``."""
    shown = sorted(name for name in names if builtins or not name.startswith("celery."))
    return "\n".join(["[tasks]", *(f"  . {name}" for name in shown)]) + "\n"
