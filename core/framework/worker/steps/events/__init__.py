"""Events: tells monitors what the worker and its tasks do."""
