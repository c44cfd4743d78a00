"""Remote control: answers commands, and knows the other workers."""
