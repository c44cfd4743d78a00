"""Benchmarks: this framework and Celery, side by side, in one run, on the same private brokers. See README.md."""
