"""Drivers: code that a transport and a result store for the same server share. They belong to no plugin family."""
