"""The built-in pools, which run tasks; one module or package each."""
