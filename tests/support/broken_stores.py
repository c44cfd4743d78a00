"""Result stores that are broken on purpose, each in one way: what the suite for result stores is there to find.

1. Each is a few lines over a store that is whole and keeps results in this process. `MEANT` names the test that must
   notice.
2. `tests/testing/test_result_store_suite.py` runs them; pytest does not collect this file by itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from typing import Any

import msgspec

from framework.api.result_store import ResultStore, ResultStoreTraits
from framework.exceptions import FrameworkError, TimeoutError  # noqa: A004 - the contract's
from framework.testing.result_stores import ResultStoreSuite
from framework_results.none import NoneStore

#: Seconds between two calls of `on_interval`.
INTERVAL = 0.02


class Place:
    """What stores of one URL share."""

    def __init__(self):
        self.news = threading.Condition()
        #: By id: when it ends, its state, the document.
        self.kept: dict[str, tuple[float, str, bytes]] = {}


PLACES: defaultdict[str, Place] = defaultdict(Place)


class Unbroken(ResultStore):
    """What the broken ones are made from."""

    def __init__(self, url, options, context):
        super().__init__(url, options, context)
        self.place = PLACES[url]

    @property
    def display_url(self):
        return "broken://"

    def store(self, records):
        with self.place.news:
            for record in records:
                if self.may_replace(self.place.kept.get(record.task_id), record):
                    self.place.kept[record.task_id] = (self.ends(record), record.state, self.encode(record.document))
            self.place.news.notify_all()

    def may_replace(self, kept, record):
        return kept is None or kept[1] != "SUCCESS"

    def encode(self, document):
        return document

    def ends(self, record):
        context = self.context
        failed = record.state == "FAILURE" and context.failure_expires is not None
        seconds = context.failure_expires if failed else context.expires
        return time.monotonic() + seconds if seconds else float("inf")

    def fetch(self, task_ids):
        now = time.monotonic()
        with self.place.news:
            kept = self.place.kept
            return {each: kept[each][2] for each in task_ids if each in kept and kept[each][0] > now}

    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        end = None if timeout is None else time.monotonic() + timeout
        missing = dict.fromkeys(task_ids)
        while missing:
            for task_id, document in self.fetch(list(missing)).items():
                if is_ready(document):
                    del missing[task_id]
                    yield task_id, document
            if not missing:
                return
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"{len(missing)} of the results did not arrive")
            self.sleep(missing)
            if on_interval is not None:
                on_interval()

    def sleep(self, missing):
        with self.place.news:
            self.place.news.wait(INTERVAL)

    def forget(self, task_ids):
        with self.place.news:
            for task_id in task_ids:
                self.place.kept.pop(task_id, None)


# ---------------------------------------------------------------- keeping


class LosesOne(Unbroken):
    def store(self, records):
        super().store([record for number, record in enumerate(records) if number % 1_000 != 999])


class KeepsTheFirstOfABatch(Unbroken):
    def store(self, records):
        super().store(records[:1])


class CutsDocuments(Unbroken):
    def encode(self, document):
        return document if len(document) < 65_536 else b'{"status": "SUCCESS"}'


class WritesDocumentsAnew(Unbroken):
    def encode(self, document):
        return msgspec.json.encode(msgspec.json.decode(document))


class WantsSomethingToStore(Unbroken):
    def store(self, records):
        if not records:
            raise FrameworkError("nothing to store")
        super().store(records)


class KeepsTheFirstDocument(Unbroken):
    def may_replace(self, kept, record):
        return kept is None


class ReplacesSuccesses(Unbroken):
    def may_replace(self, kept, record):
        return True


class ReplacesSuccessesByFailures(Unbroken):
    def may_replace(self, kept, record):
        return super().may_replace(kept, record) or record.state == "FAILURE"


class ReplacesSuccessesWithinABatch(Unbroken):
    def store(self, records):
        super().store(list({record.task_id: record for record in records}.values()))


class InventsResults(Unbroken):
    def fetch(self, task_ids):
        return {**dict.fromkeys(task_ids, b'{"status": "PENDING"}'), **super().fetch(task_ids)}


class ForgetsWhatWasRead(Unbroken):
    def fetch(self, task_ids):
        found = super().fetch(task_ids)
        super().forget(list(found))
        return found


class ForgetsNothing(Unbroken):
    def forget(self, task_ids):
        pass


class ForgetsEverything(Unbroken):
    def forget(self, task_ids):
        with self.place.news:
            self.place.kept.clear()


class CannotForgetTheUnknown(Unbroken):
    def forget(self, task_ids):
        for task_id in task_ids:
            del self.place.kept[task_id]


class KeepsForEver(Unbroken):
    def ends(self, record):
        return float("inf")


class TakesForEverForNoTime(Unbroken):
    def ends(self, record):
        return super().ends(record) if self.context.expires else 0.0


class KeepsItToItself(Unbroken):
    def __init__(self, url, options, context):
        super().__init__(url, options, context)
        self.place = Place()


class ConnectsWhenItIsMade(Unbroken):
    def __init__(self, url, options, context):
        super().__init__(url, options, context)
        self._fd = os.open(os.devnull, os.O_RDONLY)

    def close(self):
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ClosesOnce(Unbroken):
    closed = False

    def close(self):
        if self.closed:
            raise FrameworkError("it is closed already")
        self.closed = True


class ShowsPasswords(Unbroken):
    @property
    def display_url(self):
        return self.url


class LeaksADescriptor(Unbroken):
    def store(self, records):
        os.open(os.devnull, os.O_RDONLY)
        super().store(records)


class LeaksAThread(Unbroken):
    def store(self, records):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        super().store(records)


class KeepsNothingInSilence(NoneStore):
    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        return iter(())


class SaysThatItKeepsNothing(Unbroken):
    traits = ResultStoreTraits(stores=False, shared=False)


# ---------------------------------------------------------------- waiting


class YieldsTwice(Unbroken):
    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        for each in super().wait(task_ids, timeout, is_ready, on_interval):
            yield each
            yield each


class LooksOnceOnly(Unbroken):
    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        return iter(self.fetch(list(task_ids)).items())


class YieldsAtTheEnd(Unbroken):
    """It yields when it has everything."""

    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        return iter(list(super().wait(task_ids, timeout, is_ready, on_interval)))


class YieldsWhatIsNotReady(Unbroken):
    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        return super().wait(task_ids, timeout, lambda document: True, on_interval)


class LooksOnlyForNews(Unbroken):
    """It misses what was there before."""

    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        before = self.fetch(list(task_ids))
        fresh = [each for each in task_ids if each not in before]
        if before and not fresh:
            raise TimeoutError("nothing new has come")
        yield from super().wait(fresh, timeout, is_ready, on_interval)


class WaitsForNothing(Unbroken):
    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        ids = list(task_ids)
        if not ids:
            raise TimeoutError("nothing has come")
        return super().wait(ids, timeout, is_ready, on_interval)


class WaitsForEver(Unbroken):
    """It takes no notice of the time; the test's own patience is over before."""

    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        return super().wait(task_ids, None if timeout is None else timeout + 2.0, is_ready, self._impatient())

    @staticmethod
    def _impatient():
        end = time.monotonic() + 1.0

        def look():
            if time.monotonic() > end:
                raise FrameworkError("it would wait for ever")

        return look


class GivesUpInSilence(Unbroken):
    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        try:
            yield from super().wait(task_ids, timeout, is_ready, on_interval)
        except TimeoutError:
            return


class RaisesPythonsTimeout(Unbroken):
    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        try:
            yield from super().wait(task_ids, timeout, is_ready, on_interval)
        except TimeoutError as error:
            raise OSError("timed out") from error


class NeverLooksUp(Unbroken):
    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        return super().wait(task_ids, timeout, is_ready)


class TakesAllForTheFirst(Unbroken):
    """What is found for a wait that is broken off is gone."""

    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        for each in super().wait(task_ids, timeout, is_ready, on_interval):
            self.forget(list(task_ids))
            yield each


class WaitsForOneThreadOnly(Unbroken):
    def __init__(self, url, options, context):
        super().__init__(url, options, context)
        self._waiting = threading.Lock()

    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        if not self._waiting.acquire(blocking=False):
            raise FrameworkError("another thread waits already")
        try:
            yield from super().wait(task_ids, timeout, is_ready, on_interval)
        finally:
            self._waiting.release()


class MixesClientsUp(Unbroken):
    """A result goes to the client that was made last."""

    def wait(self, task_ids, timeout, is_ready, on_interval=None):
        if not self.context.oid.startswith("other-"):
            task_ids = [*task_ids, *(each for each in self.place.kept if each not in task_ids)]
        return super().wait(task_ids, timeout, is_ready, on_interval)


#: The test of the suite that each of them must fail.
MEANT: dict[type[ResultStore], str] = {
    LosesOne: "test_many_at_once",
    KeepsTheFirstOfABatch: "test_a_result_reaches_whoever_asked",
    KeepsItToItself: "test_a_result_reaches_whoever_asked",
    CutsDocuments: "test_documents_of_any_size",
    WritesDocumentsAnew: "test_a_result_reaches_whoever_asked",
    WantsSomethingToStore: "test_nothing_to_store_is_no_error",
    InventsResults: "test_fetch_returns_what_there_is",
    ForgetsWhatWasRead: "test_fetch_returns_what_there_is",
    KeepsTheFirstDocument: "test_a_later_document_replaces_an_earlier_one",
    ReplacesSuccesses: "test_a_success_is_never_replaced",
    ReplacesSuccessesByFailures: "test_a_success_is_never_replaced",
    ReplacesSuccessesWithinABatch: "test_a_success_is_never_replaced",
    ForgetsNothing: "test_forgotten_is_gone",
    ForgetsEverything: "test_forgotten_is_gone",
    CannotForgetTheUnknown: "test_forgotten_is_gone",
    KeepsForEver: "test_results_end_when_their_time_is_over",
    TakesForEverForNoTime: "test_results_end_when_their_time_is_over",
    ConnectsWhenItIsMade: "test_making_one_connects_to_nothing",
    ClosesOnce: "test_making_one_connects_to_nothing",
    ShowsPasswords: "test_no_password_is_shown",
    LeaksADescriptor: "test_ten_lives_leave_nothing_behind",
    LeaksAThread: "test_ten_lives_leave_nothing_behind",
    KeepsNothingInSilence: "test_a_store_that_keeps_nothing_says_so",
    SaysThatItKeepsNothing: "test_a_store_that_keeps_nothing_says_so",
    LooksOnlyForNews: "test_what_is_there_is_yielded_at_once",
    WaitsForNothing: "test_no_ids_are_no_wait",
    YieldsTwice: "test_a_result_reaches_whoever_asked",
    LooksOnceOnly: "test_who_waits_is_woken",
    YieldsAtTheEnd: "test_who_waits_is_woken",
    YieldsWhatIsNotReady: "test_states_on_the_way_are_passed_over",
    WaitsForEver: "test_a_wait_ends_with_its_time",
    GivesUpInSilence: "test_a_wait_ends_with_its_time",
    RaisesPythonsTimeout: "test_a_wait_ends_with_its_time",
    NeverLooksUp: "test_who_waits_may_look_at_something_else",
    TakesAllForTheFirst: "test_a_wait_that_is_broken_off_harms_no_other",
    WaitsForOneThreadOnly: "test_many_threads_wait_at_once",
    MixesClientsUp: "test_clients_have_their_own_results",
}


class TestUnbroken(ResultStoreSuite):
    """The control group: what the broken ones are made from passes everything."""

    result_store = Unbroken
    url = "memory://somebody@unbroken"


def _suite(kind: type[ResultStore]) -> Any:
    name = f"Test{kind.__name__}"
    given = {"result_store": kind, "url": f"memory://{name}", "patience": 1.0, "__module__": __name__}
    return type(name, (ResultStoreSuite,), given)


for _kind in MEANT:
    globals()[f"Test{_kind.__name__}"] = _suite(_kind)
