"""The tables of the config file, one module a table: a table is a struct, and a field of it is an option.

No module here says `from __future__ import annotations`: evaluating two hundred annotation strings would cost a
start 5 ms.
"""
