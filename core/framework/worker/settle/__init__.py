"""Settle: decides what to do with a message when its task has ended."""
