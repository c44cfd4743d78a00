"""The panel: the registry of remote-control commands.

1. `Panel.register`, `control_command` and `inspect_command` add a function ``f(state, **arguments)``; its return value
   is the reply.
2. `Panel.answer` runs the command of one request: it checks the arguments against the function's signature and
   annotations, and returns an ``{"error": …}`` reply for every error.
3. `Command.parse` converts the words of a command line to arguments, by the same signature and annotations.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal, NamedTuple, TypeVar, overload

import msgspec

from framework.exceptions import ConfigError, FrameworkError

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
Kind = Literal["control", "inspect"]

#: Most characters of a wrong value that an error reply shows.
_SHOWN: Final = 80


class Parameter(NamedTuple):
    """One argument of a command, as declared by its function."""

    #: `Any`: values are not converted.
    type: Any
    default: Any

    @property
    def required(self) -> bool:
        """Whether a request must contain the argument."""
        return self.default is inspect.Parameter.empty

    def convert(self, value: Any) -> Any:
        """Return `value`, which may be a word of a command line, converted to the type. Raises `ValueError`."""
        if value is None and not self.required:
            # Clients send None for omitted arguments.
            return self.default
        return value if self.type is Any else msgspec.convert(value, self.type, strict=False)

    def read(self, word: str) -> Any:
        """Return `word` of a command line converted to the type, or, without a type, to the type of the default."""
        if self.type is Any and isinstance(self.default, (bool, int, float)):
            return msgspec.convert(word, type(self.default), strict=False)
        return self.convert(word)


@cache
def parameters(handler: Callable[..., Any]) -> dict[str, Parameter]:
    """Return the named arguments of a command's function, in order."""
    found = {}
    for parameter in list(inspect.signature(handler).parameters.values())[1:]:
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            found[parameter.name] = Parameter(_type_of(parameter, handler), parameter.default)
    return found


def _type_of(parameter: inspect.Parameter, handler: Callable[..., Any]) -> Any:
    annotation = parameter.annotation
    try:
        if isinstance(annotation, str):
            annotation = eval(annotation, getattr(handler, "__globals__", {}))  # a handler's own source, not a request
        if annotation is inspect.Parameter.empty:
            return Any
        msgspec.json.schema(annotation)
    except Exception:  # noqa: BLE001 - an annotation may be any expression, also of names imported only for type checkers
        return Any
    return annotation


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One remote-control command."""

    name: str
    handler: Callable[..., Any]
    kind: Kind = "control"
    alias: str | None = None
    help: str = ""
    signature: str = ""
    #: ``(argument, converter)`` for words of the command line, in order. Empty: from the function's signature.
    args: Sequence[tuple[str, Callable[[str], Any]]] = ()
    #: The argument that takes the remaining words.
    variadic: str | None = None
    visible: bool = True
    #: Seconds that a client waits for replies.
    default_timeout: float = 1.0
    #: Seconds that the command may run, 0: no limit; None: `time_limit` under ``[control]``.
    time_limit: float | None = None

    @property
    def usage(self) -> str:
        """The command and its arguments, for help texts and errors."""
        return f"{self.name} {self.signature or self._signature()}".rstrip()

    def _signature(self) -> str:
        words = []
        for name, parameter in parameters(self.handler).items():
            shown = f"{name.upper()} ..." if name == self.variadic else name.upper()
            words.append(shown if parameter.required else f"[{shown}]")
        return " ".join(words)

    def parse(self, words: Sequence[str]) -> dict[str, Any]:
        """Return `words` as arguments: by position or ``name=value``; remaining words go to the variadic argument.

        Arguments after the variadic one can be given by name only. Raises `ValueError`, whose text is for the user.
        """
        declared = parameters(self.handler)
        converters: dict[str, Callable[[str], Any]] = dict(self.args) or {
            name: parameter.read for name, parameter in declared.items() if name != self.variadic
        }
        arguments: dict[str, Any] = {}
        rest = []
        for word in words:
            name, equals, value = word.partition("=")
            if equals and name in converters:
                arguments[name] = self._convert(name, converters[name], value)
            else:
                rest.append(word)
        names = list(converters)
        if self.variadic in declared and not self.args:
            names = names[: list(declared).index(self.variadic)]
        open_names = [name for name in names if name not in arguments]
        for name, word in zip(open_names, rest, strict=False):
            arguments[name] = self._convert(name, converters[name], word)
        rest = rest[len(open_names) :]
        if rest and self.variadic is None:
            raise ValueError(f"unexpected argument {rest[0]}; the command is {self.usage}")
        if rest and self.variadic is not None:
            arguments[self.variadic] = rest
        for name, parameter in declared.items():
            if parameter.required and name not in arguments:
                raise ValueError(f"{name.upper()} is missing; the command is {self.usage}")
        return arguments

    def _convert(self, name: str, convert: Callable[[str], Any], word: str) -> Any:
        try:
            return convert(word)
        except ValueError:
            raise ValueError(f"{name.upper()} cannot be {word!r}; the command is {self.usage}") from None


class Panel:
    """A registry of commands. `register` adds to `COMMANDS`, which all workers of a process share."""

    def __init__(self, commands: Mapping[str, Command] | None = None) -> None:
        self._commands = dict(commands or {})

    def __iter__(self) -> Iterator[Command]:
        """Yield every command once, by name."""
        by_name = {command.name: command for command in self._commands.values()}
        return iter([by_name[name] for name in sorted(by_name)])

    def get(self, name: str) -> Command | None:
        """Return the command whose name or alias is `name`."""
        return self._commands.get(name)

    def add(self, command: Command) -> None:
        """Add `command`. Raises `ConfigError` when another command has its name or alias."""
        for name in filter(None, (command.name, command.alias)):
            other = self._commands.get(name)
            if other is not None and other.handler.__qualname__ != command.handler.__qualname__:
                raise ConfigError(
                    f"two remote-control commands have the name {name!r}: {other.handler!r} and {command.handler!r}"
                )
            self._commands[name] = command

    def answer(self, state: Any, method: str, arguments: Mapping[str, Any]) -> Any:
        """Run the command `method` and return its reply, for an `Exception` an error reply."""
        command = self._commands.get(method)
        if command is None:
            return {"error": f"KeyError({method!r}): no such command"}
        try:
            inspect.signature(command.handler).bind(state, **arguments)
        except TypeError as error:
            return {"error": f"TypeError({str(error)!r}): the command is {command.usage}"}
        known = parameters(command.handler)
        taken = {}
        for name, value in arguments.items():
            try:
                taken[name] = known[name].convert(value) if name in known else value
            except ValueError as error:
                return {"error": f"{method}: {name} is {repr(value)[:_SHOWN]}: {error}; the command is {command.usage}"}
        try:
            return command.handler(state, **taken)
        except FrameworkError as error:
            return {"error": str(error)}
        except Exception as error:  # the hook-call wall: a command may be a plugin's
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
        """Register ``f(state, **arguments)`` as a command.

        Used as a plain decorator, or with the fields of `Command` as arguments (`type` for `kind`).
        """

        def decorate(function: F) -> F:
            kind = options.pop("type", options.pop("kind", "control"))
            name = options.pop("name", None) or function.__name__
            help_text = options.pop("help", None) or (inspect.getdoc(function) or "").partition("\n")[0]
            COMMANDS.add(Command(name=name, handler=function, kind=kind, help=help_text, **options))
            return function

        return decorate if function is None else decorate(function)


def control_command(**options: Any) -> Callable[[F], F]:
    """Register a command that changes the worker."""
    return Panel.register(type="control", **options)


def inspect_command(**options: Any) -> Callable[[F], F]:
    """Register a command that only reports."""
    return Panel.register(type="inspect", **options)


#: The registered commands of this process. Importing a module with commands registers them.
COMMANDS = Panel()
