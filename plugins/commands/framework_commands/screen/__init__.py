"""The live screen of ``framework events``.

`keys` reads the keyboard, `model` holds the state and handles keys, `views` draws it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from framework import exitcodes
from framework_commands.screen.keys import Keyboard
from framework_commands.screen.model import Model
from framework_commands.screen.views import draw

if TYPE_CHECKING:
    from framework import App

#: Seconds between two redraws while no key is pressed.
_FRAME = 0.25


def show(app: App, *, color: bool = True) -> int:
    """Show the screen until the user quits or the capture fails; return the exit code."""
    console = Console(no_color=None if color else True, highlight=False)
    with Model(app) as model, Keyboard() as keyboard:
        try:
            with Live(draw(model, console), console=console, screen=True, auto_refresh=False) as live:
                while not model.closed:
                    for key in keyboard.read(_FRAME):
                        model.press(key)
                    model.tick()
                    live.update(draw(model, console), refresh=True)
        except KeyboardInterrupt:
            pass  # Ctrl-C quits
    if model.error is not None:
        raise model.error
    return exitcodes.OK
