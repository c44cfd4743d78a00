"""Settle: decides what becomes of a message when its task has ended."""
