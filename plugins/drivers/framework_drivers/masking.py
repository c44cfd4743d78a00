"""Masks passwords in URLs."""

from __future__ import annotations

import re
from typing import Final

_PASSWORD: Final = re.compile(r"(?P<user>//[^/@:;]*):[^/@;]*(?:/[^@;]*)?@")


def masked(url: str) -> str:
    """Return `url` with every password replaced by ``**``."""
    return _PASSWORD.sub(r"\g<user>:**@", url)
