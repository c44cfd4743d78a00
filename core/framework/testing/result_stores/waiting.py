"""Promises 3 and 4: `wait` yields each result once, as soon as it is stored, in any thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from framework.exceptions import TimeoutError  # noqa: A004 - the contract's
from framework.testing.result_stores.base import Bench, ResultStoreSuiteBase, documents, is_ready, needs


class WaitingPromises(ResultStoreSuiteBase):
    """Tests of waiting for results."""

    @needs("stores", "shared")
    def test_what_is_there_is_yielded_at_once(self, bench: Bench) -> None:
        """A stored result is yielded at once, even with a timeout of 0, and once if its id is given twice."""
        [task_id] = bench.ids(1)
        record = bench.record(task_id)
        bench.worker().store([record])
        assert bench.wait(bench.client(), [task_id, task_id], 0.0) == documents([record])

    @needs("stores")
    def test_no_ids_are_no_wait(self, bench: Bench) -> None:
        """`wait` without ids returns at once, whatever the timeout."""
        assert bench.wait(bench.client(), []) == {}

    @needs("stores")
    def test_who_waits_is_woken(self, bench: Bench) -> None:
        """Results that are stored while a client waits are yielded one after another, as soon as each is stored."""
        ids = bench.ids(20)
        client, worker = bench.client(ids), bench.worker()
        turns = [threading.Event() for _ in ids]

        def work() -> None:
            for turn, task_id in zip(turns, ids, strict=True):
                turn.wait(self.patience)
                worker.store([bench.record(task_id)])

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        turns[0].set()
        seen = []
        for task_id, _document in client.wait(ids, self.patience, is_ready):
            seen.append(task_id)
            if len(seen) < len(turns):
                turns[len(seen)].set()
        thread.join(self.patience)
        assert seen == ids

    @needs("stores")
    def test_states_on_the_way_are_passed_over(self, bench: Bench) -> None:
        """Documents for which `is_ready` is false, such as STARTED and RETRY, are not yielded."""
        [task_id] = bench.ids(1)
        client, worker = bench.client([task_id]), bench.worker()
        worker.store([bench.record(task_id, "STARTED")])
        worker.store([bench.record(task_id, "RETRY")])
        with pytest.raises(TimeoutError):
            list(client.wait([task_id], 0.2, is_ready))
        last = bench.record(task_id)
        worker.store([last])
        assert bench.wait(client, [task_id]) == documents([last])

    @needs("stores")
    def test_a_wait_ends_with_its_time(self, bench: Bench) -> None:
        """`wait` yields stored results first and raises `framework.exceptions.TimeoutError` at its timeout."""
        come, missing = bench.ids(2)
        client = bench.client([come, missing])
        bench.worker().store([bench.record(come)])
        assert bench.wait(client, [come]).keys() == {come}
        waiting = iter(client.wait([come, missing], 0.3, is_ready))
        assert next(waiting)[0] == come
        with pytest.raises(TimeoutError):
            next(waiting)

    @needs("stores")
    def test_who_waits_may_look_at_something_else(self, bench: Bench) -> None:
        """`on_interval` is called repeatedly while no result arrives."""
        [task_id] = bench.ids(1)
        client, worker = bench.client([task_id]), bench.worker()
        calls: list[None] = []

        def on_interval() -> None:
            calls.append(None)
            if len(calls) == 2:
                worker.store([bench.record(task_id)])

        assert [found for found, _ in client.wait([task_id], self.patience, is_ready, on_interval)] == [task_id]
        assert len(calls) >= 2

    @needs("stores")
    def test_a_wait_that_is_broken_off_harms_no_other(self, bench: Bench) -> None:
        """After a wait that is abandoned after its first result, another wait yields the rest."""
        ids = bench.ids(5)
        client = bench.client(ids)
        records = [bench.record(task_id) for task_id in ids]
        bench.worker().store(records)
        broken_off = iter(client.wait(ids, self.patience, is_ready))
        first, _document = next(broken_off)
        del broken_off
        rest = [task_id for task_id in ids if task_id != first]
        assert bench.wait(client, rest).keys() == set(rest)

    @needs("stores")
    def test_many_threads_wait_at_once(self, bench: Bench) -> None:
        """Four threads wait on one store, each for its own tasks, while four other threads store the results."""
        shares = [bench.ids(50) for _ in range(4)]
        client = bench.client([task_id for share in shares for task_id in share])
        worker = bench.worker()
        worker.store([bench.record(share[0], "STARTED") for share in shares])
        waiting = [threading.Event() for _ in shares]

        def wait(number: int) -> set[str]:
            def check(document: bytes) -> bool:
                waiting[number].set()
                return is_ready(document)

            return {task_id for task_id, _ in client.wait(shares[number], self.patience, check)}

        def work(number: int) -> None:
            for event in waiting:
                event.wait(self.patience)
            for task_id in shares[number]:
                worker.store([bench.record(task_id)])

        with ThreadPoolExecutor(8) as threads:
            waits = [threads.submit(wait, number) for number in range(4)]
            works = [threads.submit(work, number) for number in range(4)]
            for done in works:
                done.result()
            assert [found.result() for found in waits] == [set(share) for share in shares]

    @needs("stores")
    def test_clients_have_their_own_results(self, bench: Bench) -> None:
        """Two clients that wait at the same time each get the results of their own tasks."""
        ours, theirs = bench.ids(1), bench.ids(1)
        client, other = bench.client(ours), bench.client(theirs, oid=f"other-{bench.oid}")
        bench.worker().store([bench.record(ours[0]), bench.record(theirs[0], oid=f"other-{bench.oid}")])
        assert bench.wait(client, ours).keys() == set(ours)
        assert bench.wait(other, theirs).keys() == set(theirs)
