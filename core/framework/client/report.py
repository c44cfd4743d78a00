"""The report on an installation, for bug reports: the output of `framework report` and a reply of workers.

It lists versions, the platform, the application, the plugins, and the settings with other than default values.
"""

from __future__ import annotations

import contextlib
import platform
import re
from importlib import metadata
from typing import TYPE_CHECKING, Final

import msgspec

from framework._boot import catalog
from framework._config.show import masked

if TYPE_CHECKING:
    from framework.client.app import App

#: The name in a requirement.
_NAME: Final = re.compile(r"[\w.-]+")


def report(app: App) -> str:
    """Return the report on this process and on `app`, as text of several lines."""
    settings = app.conf.settings
    outlet = app.publisher.outlet
    lines = [
        f"software -> framework {metadata.version('framework')}, Python {platform.python_version()} "
        f"({platform.python_implementation()})",
        f"platform -> {platform.platform()}",
        "libraries -> " + ", ".join(f"{name} {version}" for name in _libraries() if (version := _version(name))),
        f"application -> {app.main or '(no name)'}, {len(app.tasks)} tasks",
        f"broker -> {app.transport.display_url}",
        *([f"broker for calls -> {outlet.display_url}"] if outlet is not app.transport else []),
        f"pool -> {settings.worker.pool}",
    ]
    foreign = [str(info) for info in catalog.plugins() if info.distribution != "framework"]
    lines += ["plugins of others -> " + (", ".join(foreign) or "none"), "settings ->"]
    lines += [f"    {name}: {_show(value)}" for name, value in sorted(masked(app.conf).items())]
    return "\n".join(lines) + "\n"


def _libraries() -> list[str]:
    """Return the requirements of all distributions with plugins, extras included, and Celery."""
    found = {"celery"}
    for distribution in {"framework", *(info.distribution for info in catalog.plugins())}:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.update(_NAME.findall(line)[0] for line in metadata.requires(distribution) or ())
    return sorted(found, key=str.lower)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _show(value: object) -> str:
    return msgspec.json.encode(value, enc_hook=repr).decode()
