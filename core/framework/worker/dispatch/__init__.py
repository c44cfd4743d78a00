"""Dispatch: decides for each message whether its task runs now, later or never."""
