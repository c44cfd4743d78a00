"""``framework multi``: starts and stops many workers on one machine.

`words` parses the command line, `cluster` makes nodes of it, `processes` starts, finds and signals their processes,
`command` runs the commands and prints what they did.
"""
