"""mypy knows what a task takes and returns."""

from __future__ import annotations

import subprocess
import sys

SAMPLE = """
from framework import App, Task, shared_task

app = App("typed")

@app.task
def add(x: int, y: int = 0) -> int:
    return x + y

@app.task(queue="media")
def upper(text: str) -> str:
    return text.upper()

@app.task(bind=True, max_retries=3)
def bound(self: Task[..., float], x: float) -> float:
    return x

@shared_task
def shared(x: int) -> list[int]:
    return [x]

@app.task
async def later(x: int) -> str:
    return str(x)

@app.task(bind=True)
async def bound_later(self: Task[..., bytes], x: int) -> bytes:
    return bytes(x)

@shared_task(queue="q")
async def shared_later(x: int) -> float:
    return float(x)

async def client() -> None:
    reveal_type(await (await add.adelay(1)).aget(timeout=1))
    await add.adelay("one")

reveal_type(later.delay(1).get())
reveal_type(bound_later.delay(1).get())
reveal_type(shared_later.delay(1).get())
reveal_type(add.delay(1, 2).get())
reveal_type(upper.delay("x").get())
reveal_type(bound.delay(1.0).get())
reveal_type(shared.delay(1).get())
reveal_type(add(1))
reveal_type(add.s(1).delay().get())
add.delay("one")
upper.delay()
bound.delay("x")
"""


def test_mypy_knows_the_signature_of_a_task(tmp_path):
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(sample)],
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout
    revealed = [line.split('Revealed type is "')[1].rstrip('"') for line in output.splitlines() if "Revealed" in line]
    kinds = [one.replace("builtins.", "") for one in revealed]
    assert kinds == ["int", "str", "bytes", "float", "int", "str", "float", "list[int]", "int", "int"], (
        output + done.stderr
    )
    errors = [line for line in output.splitlines() if ": error:" in line]
    assert len(errors) == 4, output
    assert "arg-type" in errors[0]
    assert "arg-type" in errors[1]
    assert "call-arg" in errors[2]
    assert "arg-type" in errors[3]
