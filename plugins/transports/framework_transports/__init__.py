"""The built-in transports, one module each; `pyproject.toml` names them as plugins."""
