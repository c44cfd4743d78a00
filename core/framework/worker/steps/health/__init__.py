"""Health: answers probes and scrapes, in a thread of its own."""
