"""``framework multi``: many workers on one machine, started and stopped together.

`words` reads the command line, `cluster` makes nodes of it, `processes` starts, signals and watches them, `command`
does what was asked and says so.
"""
