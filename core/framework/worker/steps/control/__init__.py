"""Remote control: answers commands, and tracks the other workers."""
