"""The process of a worker: its life, signals, log, pidfile, stop."""
