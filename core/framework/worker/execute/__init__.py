"""Execute: runs one task where it runs, from the encoded body to its outcome."""
