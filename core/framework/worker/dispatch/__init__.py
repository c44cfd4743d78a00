"""Dispatch: decides for each message whether it becomes a task, now or later."""
