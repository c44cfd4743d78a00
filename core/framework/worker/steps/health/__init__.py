"""Health: answers probes and Prometheus scrapes in its own thread."""
