"""Workflows in the process of a task: callbacks, chord counting, replacement, and the built-in tasks for them."""
