"""The books of a run, as a table for people."""

from __future__ import annotations

from faults.accounts import HEADINGS
from faults.run import Outcome


def table(outcome: Outcome) -> str:
    """Return the books, the faults, the memory, and what there is to complain of."""
    rows = [["", "sent", *HEADINGS]]
    for name, books in outcome.books.items():
        counts = [len(getattr(books, heading)) for heading in HEADINGS]
        rows.append([name, str(sum(counts)), *map(str, counts)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    for name, books in outcome.books.items():
        if not books.balanced:
            lines.append(f"{name}: {books}")
    faults = ", ".join(f"{count} {what}" for what, count in sorted(outcome.faults.items())) or "none"
    memory = " / ".join(f"{size / 1e6:.1f}" for size in outcome.memory)
    examples = f" {outcome.wrong_results[:5]}" if outcome.wrong_results else ""
    lines += [
        f"faults: {faults}",
        f"results looked up: {outcome.results}, wrong: {len(outcome.wrong_results)}{examples}",
        f"steady worker, begin / middle / end: {memory} MB",
        *outcome.complaints,
        f"{'the books balance' if outcome.good else 'THE BOOKS DO NOT BALANCE'} after {outcome.seconds:.0f} s",
    ]
    return "\n".join(lines)
