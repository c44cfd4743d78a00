"""The benchmark's tasks, for this framework."""

import asyncio
import os
import time

from benchmarks import cells

from framework import App

CELLS = cells.from_environment()
app = App("bench", broker=os.environ["BENCH_BROKER_URL"], backend=os.environ.get("BENCH_RESULT_URL"))


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


@app.task(name="anoop", ignore_result=True)
async def anoop(number):
    CELLS.mark(number)


@app.task(name="asleep", ignore_result=True)
async def asleep(number):
    CELLS.mark(number)
    await asyncio.sleep(0.05)


def send_all(task, count):
    app.send_many(task.s(number) for number in range(count))
