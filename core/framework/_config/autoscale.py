"""The two sizes of ``--autoscale``."""

from __future__ import annotations

from typing import Final, NamedTuple

from framework.exceptions import ConfigError

#: No pool is asked for more slots than this: a slip of the finger must not take the machine down.
SIZE_MAX: Final = 10_000


class Range(NamedTuple):
    """The sizes between which a pool is scaled."""

    largest: int
    #: 0 is taken: a pool keeps one slot all the same.
    smallest: int

    @property
    def start(self) -> int:
        """The size that a worker starts with."""
        return max(1, self.smallest)


def autoscale_range(text: str) -> Range:
    """Return the sizes that `text` names: ``MAX,MIN``, in either order, or ``MAX`` alone. Raises `ConfigError`."""
    try:
        sizes = sorted((int(word) for word in text.split(",")), reverse=True)
    except ValueError:
        sizes = []
    if not 1 <= len(sizes) <= 2:
        raise ConfigError(f"autoscale must be two sizes, MAX,MIN like 10,3, or MAX alone, and is {text!r}")
    return checked(sizes[0], sizes[1] if len(sizes) == 2 else 0)


def checked(largest: int, smallest: int) -> Range:
    """Return the sizes as a `Range`. Raises `ConfigError` when they are none."""
    if smallest < 0:
        raise ConfigError(f"the smallest size of the pool is {smallest}, and must be at least 0")
    if largest < 1:
        raise ConfigError(f"the largest size of the pool is {largest}, and must be at least 1")
    if largest > SIZE_MAX:
        raise ConfigError(f"the largest size of the pool is {largest}, and must be at most {SIZE_MAX}")
    if largest < smallest:
        raise ConfigError(f"the largest size of the pool, {largest}, is below the smallest, {smallest}")
    return Range(largest, smallest)
