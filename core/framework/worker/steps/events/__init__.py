"""Events: reports the worker's and its tasks' state changes to monitors."""
