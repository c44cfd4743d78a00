"""The built-in steps: each starts one part of the worker and declares its requirements. `builtin` lists them."""
