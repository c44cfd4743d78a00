"""The tables of the config file: each table is a struct, and each field of it is an option.

No module here uses `from __future__ import annotations`: evaluating two hundred annotation strings would slow each
start by 5 ms.
"""
