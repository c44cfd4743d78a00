"""The result store `none`: keeps nothing. It is the default when no result store is configured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn

from framework.api.result_store import Record, ResultStore, ResultStoreTraits
from framework.exceptions import FrameworkError


class NoneStore(ResultStore):
    """A result store that drops every result; waiting for a result is an error."""

    traits = ResultStoreTraits(stores=False, shared=False)

    @property
    def display_url(self) -> str:
        """The text for the banner."""
        return "disabled://"

    def store(self, records: Sequence[Record]) -> None:
        """Drop `records`."""

    def fetch(self, task_ids: Sequence[str]) -> dict[str, bytes]:
        """Return nothing."""
        return {}

    def wait(
        self,
        task_ids: Iterable[str],
        timeout: float | None,
        is_ready: Callable[[bytes], bool],
        on_interval: Callable[[], object] | None = None,
    ) -> Iterator[tuple[str, bytes]]:
        """Raise `FrameworkError`, because no result will arrive."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise FrameworkError(
            "cannot wait for a result because no result store is configured: "
            'set one, as in [result] backend = "sqlite:///results.db", for the workers and for this client'
        )

    def forget(self, task_ids: Sequence[str]) -> None:
        """Do nothing."""
