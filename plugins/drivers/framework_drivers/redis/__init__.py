"""The Redis client: RESP over a socket, URLs, TLS, Sentinel and Cluster."""
