"""A table in the manual that tests write from what they observe, and hold against it afterwards."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


class DocTable:
    """The table between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` of a page."""

    def __init__(self, page: str, name: str) -> None:
        self._page = DOCS / page
        self._begin, self._end = f"<!-- begin {name} -->", f"<!-- end {name} -->"

    def read(self) -> dict[str, dict[str, str]]:
        """Return the cells by row and column."""
        inside = self._page.read_text().partition(self._begin)[2].partition(self._end)[0]
        lines = [
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in inside.splitlines()
            if line.startswith("|")
        ]
        if not lines:
            return {}
        head = lines[0][1:]
        return {cells[0].strip("`"): dict(zip(head, cells[1:], strict=False)) for cells in lines[2:]}

    def write(self, corner: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, str]]) -> None:
        """Put `rows` in the table's place; `corner` is what stands over the names of the rows."""
        lines = [[corner, *columns], ["---"] * (len(columns) + 1)]
        lines += [[f"`{name}`", *(cells.get(column, "") for column in columns)] for name, cells in rows.items()]
        table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        text = self._page.read_text()
        pattern = f"{re.escape(self._begin)}.*{re.escape(self._end)}"
        self._page.write_text(
            re.sub(pattern, lambda _: f"{self._begin}\n\n{table}\n\n{self._end}", text, flags=re.DOTALL)
        )
