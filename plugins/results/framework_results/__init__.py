"""The built-in result stores, one module each; `pyproject.toml` names them as plugins."""
