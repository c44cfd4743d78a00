from __future__ import annotations

import os
import signal
import socket
import threading

import pytest

from framework._boot.loop import EventLoop


@pytest.fixture
def loop():
    loop = EventLoop()
    yield loop
    loop.close()


def test_callbacks_run_in_the_order_of_the_calls(loop):
    seen = []
    for number in range(5):
        loop.call_soon(seen.append, number)
    loop.call_soon(loop.stop)
    loop.run()
    assert seen == [0, 1, 2, 3, 4]


def test_timers_fire_in_the_order_of_their_times(loop):
    seen = []
    loop.call_later(0.02, seen.append, "late")
    loop.call_later(0.01, seen.append, "early")
    loop.call_later(0.03, loop.stop)
    loop.run()
    assert seen == ["early", "late"]


def test_a_cancelled_timer_does_not_fire(loop):
    seen = []
    timer = loop.call_later(0.001, seen.append, "never")
    timer.cancel()
    timer.cancel()
    loop.call_later(0.01, loop.stop)
    loop.run()
    assert seen == []


def test_cancelled_timers_do_not_pile_up(loop):
    for _ in range(5000):
        loop.call_later(3600, print).cancel()
    assert len(loop._timers) < 1200


def test_readers_and_writers(loop):
    ours, theirs = socket.socketpair()
    seen = []

    def read():
        seen.append(ours.recv(100))
        loop.remove_reader(ours.fileno())
        loop.stop()

    def write():
        ours.send(b"ping")
        loop.remove_writer(ours.fileno())
        theirs.send(theirs.recv(100) + b"-pong")

    with ours, theirs:
        loop.add_reader(ours.fileno(), read)
        loop.add_writer(ours.fileno(), write)
        loop.run()
    assert seen == [b"ping-pong"]


def test_a_descriptor_number_may_come_back_after_its_file_was_closed(loop):
    first = socket.socketpair()
    number = first[0].fileno()
    loop.add_reader(number, print)
    for end in first:
        end.close()
    second = socket.socketpair()
    with second[0], second[1]:
        assert number in (second[0].fileno(), second[1].fileno())
        ours, theirs = second if second[0].fileno() == number else second[::-1]
        loop.add_reader(ours.fileno(), loop.stop)
        theirs.send(b"x")
        loop.run()


def test_another_thread_wakes_a_sleeping_loop(loop):
    thread = threading.Thread(target=loop.run)
    thread.start()
    for _ in range(200):
        done = threading.Event()
        loop.call_soon_threadsafe(done.set)
        assert done.wait(10)
    loop.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_what_was_asked_before_the_stop_still_runs(loop):
    seen = []
    thread = threading.Thread(target=loop.run)
    thread.start()
    loop.call_soon_threadsafe(seen.append, "last words")
    loop.stop()
    thread.join(10)
    assert seen == ["last words"]


def test_a_signal_handler_may_hand_work_over(loop):
    seen = []

    def handle(signum, _frame):
        loop.call_soon_threadsafe(seen.append, signum)
        loop.stop()

    previous = signal.signal(signal.SIGUSR1, handle)
    try:
        loop.call_later(0.001, os.kill, os.getpid(), signal.SIGUSR1)
        loop.run()
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert seen == [signal.SIGUSR1]


def test_a_callback_that_raises_is_reported_and_the_loop_goes_on():
    errors = []
    loop = EventLoop(on_error=errors.append)
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(loop.stop)
    loop.run()
    loop.close()
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_a_callback_that_re_arms_itself_starves_nobody(loop):
    def again():
        loop.call_soon(again)

    again()
    loop.call_later(0.005, loop.stop)
    loop.run()
