"""Names where Celery's users look for them."""
