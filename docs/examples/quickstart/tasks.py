"""The tasks of the quick start: `framework -A tasks worker` runs them."""

from framework import App

app = App("quickstart")


@app.task
def add(x: int, y: int) -> int:
    """Succeed."""
    return x + y


@app.task
def divide(x: float, y: float) -> float:
    """Fail when `y` is 0."""
    return x / y


@app.task(bind=True, max_retries=3)
def flaky(self, failures: int) -> str:  # noqa: ANN001 - the task itself
    """Fail `failures` times, then succeed."""
    if self.request.retries < failures:
        raise self.retry(countdown=0)
    return f"worked at attempt {self.request.retries + 1}"
