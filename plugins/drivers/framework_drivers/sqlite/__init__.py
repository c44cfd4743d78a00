"""The SQLite driver: a file that several processes share, and the doorbells that wake them."""
