"""Intake: fetches messages as far as they fit, and feeds the pool."""
