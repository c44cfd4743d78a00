"""A SQLite file shared by several processes, and the doorbell that wakes them."""
