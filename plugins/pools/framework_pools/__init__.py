"""The built-in pools: where tasks run. One module or package each, found through entry points."""
