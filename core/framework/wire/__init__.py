"""Bytes and documents: everything that crosses the broker or the result store. It knows no `App`."""
