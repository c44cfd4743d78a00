"""The live screen of ``framework events``.

`keys` reads the keyboard, `model` holds the state and handles keys, `views` draws it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment

from framework import exitcodes
from framework.wire.safe_repr import printable
from framework_commands.screen.keys import Keyboard
from framework_commands.screen.model import Model
from framework_commands.screen.views import draw

if TYPE_CHECKING:
    from framework import App

#: Seconds between two redraws while no key is pressed.
_FRAME = 0.25


class Printable:
    """A drawing whose texts, which may come from anybody, cannot command the terminal."""

    def __init__(self, drawing: RenderableType) -> None:
        self._drawing = drawing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for text, style, control in console.render(self._drawing, options):
            yield Segment(text if control else printable(text, "\n"), style, control)


def show(app: App, *, color: bool = True) -> int:
    """Show the screen until the user quits or the capture fails; return the exit code."""
    console = Console(no_color=None if color else True, highlight=False)
    with Model(app) as model, Keyboard() as keyboard:
        try:
            with Live(Printable(draw(model, console)), console=console, screen=True, auto_refresh=False) as live:
                while not model.closed:
                    for key in keyboard.read(_FRAME):
                        model.press(key)
                    model.tick()
                    live.update(Printable(draw(model, console)), refresh=True)
        except KeyboardInterrupt:
            pass  # Ctrl-C quits
    if model.error is not None:
        raise model.error
    return exitcodes.OK
