"""The stable API for plugins: every contract that a transport, pool, result store, step or command implements.

Each plugin family has one module with its contract, promises and types. Every module outside this package,
`framework.message` and `framework.exceptions` is private and may change without notice.
"""
