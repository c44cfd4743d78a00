"""The process of a worker: its run, signals, log, pidfile and shutdown."""
