"""Promises 1 and 2: the store keeps every document unchanged, never replaces a success, and leaks nothing."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from framework.api.result_store import ResultStore
from framework.exceptions import FrameworkError
from framework.testing.result_stores.base import Bench, ResultStoreSuiteBase, documents, needs
from framework.testing.survey import survey
from framework.testing.wait import wait_for

SECRET = "s3cr3t-w0rd"


class KeepingPromises(ResultStoreSuiteBase):
    """Tests of storing, fetching, forgetting and closing."""

    @needs("stores")
    def test_a_result_reaches_whoever_asked(self, bench: Bench) -> None:
        """The client that sent the tasks gets every document that a worker stores, byte for byte."""
        ids = bench.ids(3)
        client = bench.client(ids)
        states = ("SUCCESS", "FAILURE", "REVOKED")
        records = [bench.record(task_id, state) for task_id, state in zip(ids, states, strict=True)]
        bench.worker().store(records)
        assert bench.wait(client, ids) == documents(records)

    @needs("stores")
    def test_documents_of_any_size(self, bench: Bench) -> None:
        """Documents may have any size up to a megabyte and any characters."""
        ids = bench.ids(4)
        client = bench.client(ids)
        results: tuple[object, ...] = ("", "æ☃", {"deep": [[[{}]]]}, "x" * 1_000_000)
        records = [bench.record(task_id, result=result) for task_id, result in zip(ids, results, strict=True)]
        bench.worker().store(records)
        assert bench.wait(client, ids) == documents(records)

    @needs("stores")
    def test_many_at_once(self, bench: Bench) -> None:
        """Each of thousands of results that are stored in one call is yielded once."""
        ids = bench.ids(self.many)
        client = bench.client(ids)
        records = [bench.record(task_id, result=number) for number, task_id in enumerate(ids)]
        bench.worker().store(records)
        assert bench.wait(client, ids) == documents(records)

    @needs("stores")
    def test_nothing_to_store_is_no_error(self, bench: Bench) -> None:
        """Storing an empty batch, or a result that no client waits for, is no error."""
        worker = bench.worker()
        worker.store([])
        [gone] = bench.ids(1)
        worker.store([bench.record(gone, oid="nobody")])

    @needs("stores", "shared")
    def test_fetch_returns_what_there_is(self, bench: Bench) -> None:
        """`fetch` returns the known ones of the given ids, at once, repeatedly and for every client."""
        ids = bench.ids(3)
        records = [bench.record(task_id) for task_id in ids[:2]]
        bench.worker().store(records)
        for store in (bench.client(), bench.client(oid="another"), bench.worker()):
            assert store.fetch(ids) == documents(records)
            assert store.fetch(ids[1:]) == documents(records[1:])
            assert store.fetch([]) == {}

    @needs("stores", "shared")
    def test_a_later_document_replaces_an_earlier_one(self, bench: Bench) -> None:
        """A later STARTED, RETRY or FAILURE replaces an earlier one, also within a batch."""
        one, other = bench.ids(2)
        worker = bench.worker()
        last = None
        for state in ("STARTED", "RETRY", "FAILURE", "FAILURE"):
            last = bench.record(one, state, result=state)
            worker.store([last])
        assert last is not None
        batch = [bench.record(other, state) for state in ("STARTED", "FAILURE")]
        worker.store(batch)
        assert worker.fetch([one, other]) == documents([last, batch[-1]])

    @needs("stores", "shared")
    def test_a_success_is_never_replaced(self, bench: Bench) -> None:
        """No later document replaces a success, whichever worker stores it, also within a batch."""
        one, other = bench.ids(2)
        success = bench.record(one, result=1)
        bench.worker().store([success])
        for state in ("STARTED", "RETRY", "FAILURE", "SUCCESS"):
            bench.worker().store([bench.record(one, state, result=2)])
        batch = [bench.record(other, state, result=state) for state in ("STARTED", "SUCCESS", "FAILURE")]
        bench.worker().store(batch)
        assert bench.worker().fetch([one, other]) == documents([success, batch[1]])

    @needs("stores", "shared")
    def test_an_end_is_not_replaced_by_a_retry(self, bench: Bench) -> None:
        """A late RETRY does not replace FAILURE or REVOKED; STARTED does, because the task runs again."""
        failed, revoked, again = bench.ids(3)
        ends = [bench.record(failed, "FAILURE"), bench.record(revoked, "REVOKED")]
        bench.worker().store(ends)
        bench.worker().store([bench.record(task_id, "RETRY") for task_id in (failed, revoked)])
        history = [bench.record(again, state) for state in ("RETRY", "FAILURE", "RETRY", "STARTED", "RETRY")]
        bench.worker().store(history)
        assert bench.worker().fetch([failed, revoked, again]) == documents([*ends, history[-1]])

    @needs("stores")
    def test_forgotten_is_gone(self, bench: Bench) -> None:
        """`forget` removes the given results only; an unknown id is no error."""
        ids = bench.ids(3)
        client = bench.client(ids)
        records = [bench.record(task_id) for task_id in ids]
        bench.worker().store(records)
        bench.wait(client, ids)
        client.forget([ids[0], *bench.ids(1)])
        client.forget([])
        assert client.fetch(ids) == documents(records[1:])

    @needs("stores", "shared")
    def test_results_end_when_their_time_is_over(self, bench: Bench) -> None:
        """Results expire after `expires` seconds, failures after `failure_expires` if set; 0 means never."""
        brief, failure, lasting = bench.ids(3)
        bench.worker(expires=0.0).store([bench.record(lasting)])
        bench.worker(expires=1.0, failure_expires=3600.0).store([bench.record(brief), bench.record(failure, "FAILURE")])
        client = bench.client()
        wait_for(lambda: not client.fetch([brief]), self.patience, lambda: "the result to expire")
        assert client.fetch([failure, lasting]).keys() == {failure, lasting}

    def test_making_one_connects_to_nothing(self, bench: Bench) -> None:
        """Neither the constructor nor `close`, also if repeated, connects to the store."""
        before = survey()
        store = bench.worker()
        assert survey().left_since(before) == []
        store.close()
        store.close()

    def test_no_password_is_shown(self, bench: Bench) -> None:
        """Neither `display_url` nor an error message shows the password."""
        parts = urlsplit(bench.url)
        place = parts.netloc.rpartition("@")[2]
        try:
            shown = bench.make(parts._replace(netloc=f"somebody:{SECRET}@{place}").geturl()).display_url
        except FrameworkError as error:
            shown = str(error)
        assert SECRET not in shown

    def test_ten_lives_leave_nothing_behind(self, bench: Bench) -> None:
        """Ten workers and ten clients leave no descriptor, thread or child process."""
        self._live(bench)
        before = survey()
        for _ in range(10):
            self._live(bench)
        found: list[str] = []

        def nothing() -> bool:
            found[:] = survey().left_since(before)
            return not found

        wait_for(nothing, self.patience, lambda: f"no leak; found {', '.join(found)}")

    def _live(self, bench: Bench) -> None:
        ids = bench.ids(2)
        stores: list[ResultStore] = [bench.worker()]
        if bench.traits.stores:
            stores.append(bench.client(ids))
        stores[0].store([bench.record(task_id) for task_id in ids])
        if bench.traits.stores:
            bench.wait(stores[1], ids)
        for store in stores:
            store.close()

    def test_a_store_that_keeps_nothing_says_so(self, bench: Bench) -> None:
        """Without the trait `stores`, results are dropped, and `wait` raises an error that names the remedy."""
        if bench.traits.stores:
            return
        ids = bench.ids(2)
        store = bench.worker()
        store.store([bench.record(task_id) for task_id in ids])
        assert store.fetch(ids) == {}
        store.forget(ids)
        with pytest.raises(FrameworkError, match="result"):
            list(store.wait(ids, self.patience, lambda document: True))
