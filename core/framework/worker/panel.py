"""The panel: the remote-control commands that a worker understands.

1. `Panel.register`, `control_command` and `inspect_command` add a function ``f(state, **arguments)``; what it returns
   is the reply.
2. A `Panel` answers one request: finds the command, checks the arguments against the function's signature, and turns
   whatever goes wrong into an ``{"error": …}`` reply.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, overload

import msgspec

from framework.exceptions import ConfigError, FrameworkError

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
Kind = Literal["control", "inspect"]


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One command."""

    name: str
    handler: Callable[..., Any]
    kind: Kind = "control"
    alias: str | None = None
    help: str = ""
    signature: str = ""
    #: ``(argument, converter)`` for words of the command line, in order.
    args: Sequence[tuple[str, Callable[[str], Any]]] = ()
    #: The argument that takes the rest of the words.
    variadic: str | None = None
    visible: bool = True
    #: Seconds that a client waits for replies.
    default_timeout: float = 1.0


class Panel:
    """A set of commands. The one that `register` fills is shared by every worker in the process."""

    def __init__(self, commands: Mapping[str, Command] | None = None) -> None:
        self._commands = dict(commands or {})

    def __iter__(self) -> Iterator[Command]:
        """Yield every command once, by name."""
        by_name = {command.name: command for command in self._commands.values()}
        return iter([by_name[name] for name in sorted(by_name)])

    def get(self, name: str) -> Command | None:
        """Return the command called, or also called, `name`."""
        return self._commands.get(name)

    def add(self, command: Command) -> None:
        """Add `command`. Raises `ConfigError` when another has its name."""
        for name in filter(None, (command.name, command.alias)):
            other = self._commands.get(name)
            if other is not None and other.handler.__qualname__ != command.handler.__qualname__:
                raise ConfigError(
                    f"two remote-control commands are called {name!r}: {other.handler!r} and {command.handler!r}"
                )
            self._commands[name] = command

    def answer(self, state: Any, method: str, arguments: Mapping[str, Any]) -> Any:
        """Run the command `method` and return its reply. Lets `SystemExit` through, and nothing else."""
        command = self._commands.get(method)
        if command is None:
            return {"error": f"KeyError({method!r}): no such command"}
        try:
            inspect.signature(command.handler).bind(state, **arguments)
        except TypeError as error:
            return {
                "error": f"TypeError({str(error)!r}): {method} takes {command.signature or _describe(command.handler)}"
            }
        try:
            return command.handler(state, **arguments)
        except FrameworkError as error:
            return {"error": str(error)}
        except Exception as error:  # the hook-call wall: a command may be a stranger's
            logger.exception("The command %s failed", method)
            return {"error": repr(error)}

    @overload
    @staticmethod
    def register(function: F, /) -> F: ...

    @overload
    @staticmethod
    def register(**options: Any) -> Callable[[F], F]: ...

    @staticmethod
    def register(function: F | None = None, /, **options: Any) -> F | Callable[[F], F]:
        """Decorate ``f(state, **arguments)`` as a command.

        Bare, or with the fields of `Command` (`type` for `kind`).
        """

        def decorate(function: F) -> F:
            kind = options.pop("type", options.pop("kind", "control"))
            name = options.pop("name", None) or function.__name__
            help_text = options.pop("help", None) or (inspect.getdoc(function) or "").partition("\n")[0]
            COMMANDS.add(Command(name=name, handler=function, kind=kind, help=help_text, **options))
            return function

        return decorate if function is None else decorate(function)


def control_command(**options: Any) -> Callable[[F], F]:
    """Decorate a command that changes something."""
    return Panel.register(type="control", **options)


def inspect_command(**options: Any) -> Callable[[F], F]:
    """Decorate a command that only tells."""
    return Panel.register(type="inspect", **options)


def _describe(handler: Callable[..., Any]) -> str:
    parameters = list(inspect.signature(handler).parameters.values())[1:]
    return ", ".join(str(parameter) for parameter in parameters) or "no arguments"


#: Every registered command of this process. Filled by imports, as the guide has it: a module with commands is enough.
COMMANDS = Panel()
