"""The benchmark's tasks, for Celery, with its default settings."""

import os
import time

from benchmarks import cells
from celery import Celery, group

CELLS = cells.from_environment()
app = Celery("bench", broker=os.environ["BENCH_BROKER_URL"], backend=os.environ.get("BENCH_RESULT_URL"))


@app.task(name="noop", ignore_result=True)
def noop(number):
    CELLS.mark(number)


@app.task(name="noop_result")
def noop_result(number):
    CELLS.mark(number)


@app.task(name="long", ignore_result=True)
def long(number):
    CELLS.mark(number)
    time.sleep(5)


@app.task(name="nap", ignore_result=True)
def nap(number):
    CELLS.mark(number)
    time.sleep(0.05)


def send_all(task, count):
    group(task.s(number) for number in range(count)).apply_async()
