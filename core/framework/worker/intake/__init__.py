"""Intake: fetches messages up to the prefetch limit and feeds the pool."""
