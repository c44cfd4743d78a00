"""Bytes and documents: everything that crosses the broker or the result store. Nothing here imports `App`."""
