"""Events, seen from the client: what workers and clients tell while they work."""
