"""Execute: runs one task in its slot, from the encoded message to the outcome."""
