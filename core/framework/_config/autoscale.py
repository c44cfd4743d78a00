"""Parses the two sizes of ``--autoscale``."""

from __future__ import annotations

from typing import Final, NamedTuple

from framework.exceptions import ConfigError

#: Most slots of a pool: a typing error must not bring the machine down.
SIZE_MAX: Final = 10_000


class Range(NamedTuple):
    """The largest and smallest size of an autoscaled pool."""

    largest: int
    #: May be 0, but a pool keeps at least one slot.
    smallest: int

    @property
    def start(self) -> int:
        """The size that a worker starts with."""
        return max(1, self.smallest)


def autoscale_range(text: str) -> Range:
    """Parse ``MAX,MIN``, in either order, or ``MAX`` alone. Raises `ConfigError`."""
    try:
        sizes = sorted((int(word) for word in text.split(",")), reverse=True)
    except ValueError:
        sizes = []
    if not 1 <= len(sizes) <= 2:
        raise ConfigError(f"autoscale is {text!r}; wanted two sizes, MAX,MIN like 10,3, or MAX alone")
    return checked(sizes[0], sizes[1] if len(sizes) == 2 else 0)


def checked(largest: int, smallest: int) -> Range:
    """Return the sizes as a `Range`. Raises `ConfigError` for sizes out of bounds."""
    if smallest < 0:
        raise ConfigError(f"the smallest size of the pool is {smallest}; wanted at least 0")
    if largest < 1:
        raise ConfigError(f"the largest size of the pool is {largest}; wanted at least 1")
    if largest > SIZE_MAX:
        raise ConfigError(f"the largest size of the pool is {largest}; wanted at most {SIZE_MAX}")
    if largest < smallest:
        raise ConfigError(f"the largest size of the pool, {largest}, is below the smallest, {smallest}")
    return Range(largest, smallest)
