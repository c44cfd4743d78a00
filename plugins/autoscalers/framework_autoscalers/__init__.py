"""The built-in autoscalers, one module each."""
