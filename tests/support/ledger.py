"""Accounting: what `framework.testing` gives to everybody."""

from __future__ import annotations

from framework.testing.ledger import Books, append, balance, lines, read, size

__all__ = ["Books", "append", "balance", "lines", "read", "size"]
