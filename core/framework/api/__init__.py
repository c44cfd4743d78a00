"""The stable door for plugins: everything that a transport, pool, result store, step or command imports.

One module a family, each with the contract, its promises and the types that cross it. Whatever is not
here, in `framework.message` or in `framework.exceptions` is private and may change without notice.
"""
