"""Steps: each starts one part of the worker and says what it needs. `builtin` lists them."""
