"""Modules of `celery.contrib`, under the same names."""
