"""The built-in file watchers, one module each."""
