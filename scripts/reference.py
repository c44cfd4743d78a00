"""Writes the reference parts of the manual from the code that they describe.

1. Each part lies between `<!-- begin NAME -->` and `<!-- end NAME -->` in a page of docs/.
2. `settings`: every setting. `transport`, `pool`, `autoscaler`, `fsnotify`, `result_store`: every built-in plugin
   with its options.
   `commands`: every sub-command. `hooks`: every hook. `steps`: every built-in step of both graphs.
   `metrics`: every metric.
   `pool_promises`, `transport_promises`, `fsnotify_promises`, `autoscaler_promises`,
   `result_store_promises`: every test of the conformance suites.
3. `python scripts/reference.py` writes; with `--check` it only says (exit code 1) that a page is out of date.
"""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

DOCS = Path(__file__).parent.parent / "docs"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


def code(text: object) -> str:
    """Return `text` as code, or nothing when it is empty."""
    return f"`{text}`" if text not in ("", None) else ""


# ---------------------------------------------------------------- the parts


def settings() -> str:
    """Every setting, by table of the config file."""
    from framework._config.options import bare, describe, options, tables

    parts = []
    for name in ["", *tables()]:
        found = [option for option in options().values() if option.table == name]
        if not found:
            continue
        parts.append(f"### [{name}]" if name else "### Top level")
        rows = []
        for option in found:
            notes = [option.help]
            if option.flag:
                notes.append("Flag: " + ", ".join(code(flag) for flag in option.flag) + ".")
            if option.since:
                notes.append(f"Not yet: {option.since}.")
            default = "" if option.default in (None, [], {}, ()) or _table(option.default) else repr(option.default)
            rows.append(
                [code(option.key), code(option.name), describe(bare(option.type)), code(default), " ".join(notes)]
            )
        parts.append(table(["key", "in code", "value", "default", "what it does"], rows))
    return "\n\n".join(parts)


def _table(value: object) -> bool:
    return isinstance(value, msgspec.Struct)


def plugins(family: str) -> str:
    """Every built-in plugin of a family, with its options."""
    from framework._boot import catalog, loader
    from framework._boot.families import FAMILIES

    parts = []
    seen: dict[type, str] = {}
    for info in sorted(catalog.plugins(family), key=lambda info: info.name):
        if info.distribution != "framework":
            continue
        try:
            plugin = loader.load(family, info.name)
        except Exception as error:  # the plugin-load wall: a page must not appear without its options
            raise SystemExit(f"{FAMILIES[family].name} {info.name}: {error}") from error
        text = [f"### {info.name}"]
        if plugin in seen:
            text.append(f"The same as [{seen[plugin]}](#{seen[plugin]}).")
        else:
            seen[plugin] = info.name
            text.append(_traits(plugin))
            fields = msgspec.structs.fields(plugin.options_type)
            if fields:
                text.append(f"Options, in `[{family}.{info.name}]`:")
                text.append(table(["key", "default", "what it does"], [_option(field) for field in fields]))
        parts.append("\n\n".join(part for part in text if part))
    return "\n\n".join(parts)


def _traits(plugin: type) -> str:
    traits = getattr(plugin, "traits", None)
    if traits is None:
        return ""
    pairs = msgspec.structs.asdict(traits).items()
    return "Traits: " + ", ".join(f"{name} {'yes' if value is True else value}" for name, value in pairs if value) + "."


def _option(field: msgspec.structs.FieldInfo) -> list[str]:
    described = [arg.description for arg in typing.get_args(field.type) if isinstance(arg, msgspec.Meta)]
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return [code(field.name), code(repr(default)), next(filter(None, described), "")]


def commands() -> str:
    """Every sub-command, with its own options."""
    import click

    from framework._cli.program import described, global_options, program

    shared = {option.name for option in global_options()}
    parts = []
    with click.Context(program, info_name="framework") as context:
        for name, text in described():
            command = program.get_command(context, name)
            assert command is not None
            parts.append(f"### framework {name}\n\n{text}")
            with click.Context(command, info_name=name, parent=context) as inner:
                rows = [
                    _parameter(param, inner)
                    for param in command.get_params(inner)
                    if param.name not in shared | {"help"}
                ]
                if isinstance(command, click.Group):
                    rows += [
                        [code(f"{name} {sub}"), command.commands[sub].get_short_help_str(200)]
                        for sub in command.commands
                    ]
            rows = [row for row in rows if row]
            if rows:
                parts.append(table(["", "what it does"], rows))
    return "\n\n".join(parts)


def _parameter(param: object, context: object) -> list[str]:
    import click

    if isinstance(param, click.Option):
        record = param.get_help_record(typing.cast("click.Context", context))
        return [code(record[0]), record[1]] if record else []
    assert isinstance(param, click.Argument)
    return [code(param.make_metavar(typing.cast("click.Context", context))), "Argument."]


def hooks() -> str:
    """Every hook."""
    from framework.api.hook import HookSpecs

    rows = []
    for name, function in vars(HookSpecs).items():
        if not name.startswith("_") and callable(function):
            arguments = ", ".join(list(inspect.signature(function).parameters)[1:])
            rows.append([code(f"{name}({arguments})"), " ".join((function.__doc__ or "").split())])
    return table(["hook", "when"], rows)


def steps() -> str:
    """Every built-in step."""
    from framework._config.settings import BrokerSettings, Settings
    from framework.worker.steps.builtin import worker_steps
    from framework.worker.steps.consumer import consumer_steps

    defaults = Settings(broker=BrokerSettings(url="sqlite:///framework.db"))
    rows = []
    for graph, found in (("worker", worker_steps(defaults)), ("consumer", consumer_steps())):
        for step in found:
            needs = ", ".join(code(name) for name in (*step.requires, *step.after))
            first = (step.__doc__ or "").strip().splitlines()[0]
            rows.append([graph, code(step.name), needs, first])
    return table(["graph", "step", "requires", "what it does"], rows)


def promises(suite: type) -> str:
    """Every test of a conformance suite."""
    rows = []
    for part in suite.__mro__:
        for name, function in vars(part).items():
            if name.startswith("test_"):
                marks = getattr(function, "pytestmark", ())
                traits = [code(trait) for mark in marks if mark.name == "needs_trait" for trait in mark.args]
                rows.append([code(name), ", ".join(traits), " ".join((function.__doc__ or "").split())])
    return table(["test", "needs the trait", "what it proves"], rows)


def pool_promises() -> str:
    """Every promise of a pool."""
    from framework.testing.pools import PoolSuite

    return promises(PoolSuite)


def transport_promises() -> str:
    """Every promise of a transport."""
    from framework.testing.transports import TransportSuite

    return promises(TransportSuite)


def fsnotify_promises() -> str:
    """Every promise of a file watcher."""
    from framework.testing.fsnotify import FsnotifySuite

    return promises(FsnotifySuite)


def autoscaler_promises() -> str:
    """Every promise of an autoscaler."""
    from framework.testing.autoscalers import AutoscalerSuite

    return promises(AutoscalerSuite)


def result_store_promises() -> str:
    """Every promise of a result store."""
    from framework.testing.result_stores import ResultStoreSuite

    return promises(ResultStoreSuite)


def metrics() -> str:
    """Every metric of a worker."""
    from framework.worker.steps.health.prometheus import FAMILIES

    rows = [[code(each.name), each.type, ", ".join(map(code, each.labels)), each.help] for each in FAMILIES]
    return table(["metric", "type", "labels", "what it tells"], rows)


PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "settings": ("configuration.md", settings),
    "transport": ("transports.md", lambda: plugins("transport")),
    "pool": ("pools.md", lambda: plugins("pool")),
    "autoscaler": ("autoscaling.md", lambda: plugins("autoscaler")),
    "fsnotify": ("fsnotify.md", lambda: plugins("fsnotify")),
    "result_store": ("results.md", lambda: plugins("result_store")),
    "commands": ("cli.md", commands),
    "hooks": ("plugins.md", hooks),
    "steps": ("bootsteps.md", steps),
    "metrics": ("health.md", metrics),
    "pool_promises": ("testing-plugins.md", pool_promises),
    "transport_promises": ("testing-plugins.md", transport_promises),
    "autoscaler_promises": ("testing-plugins.md", autoscaler_promises),
    "result_store_promises": ("testing-plugins.md", result_store_promises),
    "fsnotify_promises": ("testing-plugins.md", fsnotify_promises),
}


def render(name: str) -> tuple[Path, str, str]:
    """Return the page of a part, its text now, and its text as it should be."""
    page, make = PARTS[name]
    path = DOCS / page
    old = path.read_text()
    pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    new, count = pattern.subn(lambda match: f"{match[1]}\n{make()}\n\n{match[2]}", old)
    if count != 1:
        raise SystemExit(f"{path} has {count} places for {name}; wanted one")
    return path, old, new


def main() -> int:
    """Write or check all parts."""
    stale = []
    for name in PARTS:
        path, old, new = render(name)
        if old != new:
            stale.append(f"{path.name} ({name})")
            if "--check" not in sys.argv:
                path.write_text(new)
    if "--check" in sys.argv and stale:
        sys.stderr.write(f"out of date: {', '.join(stale)}; run python scripts/reference.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
