"""What follows when a task ends: callbacks, counting of chords, replacement, and the built-in tasks they need."""
