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

from framework.api.result_store import ChordPart, ResultStore, ResultStoreTraits, Turn
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
        self.chords: dict[str, Chord] = {}
        self.groups: dict[str, tuple[float, bytes]] = {}


class Chord:
    """The parts of one, and who has the turn until when."""

    def __init__(self, size, ends):
        self.size = size
        self.ends = ends
        self.parts: dict[str, ChordPart] = {}
        self.holder = ("", 0.0)
        self.over = False
        #: Whether the number of its parts is known.
        self.begun = True


PLACES: defaultdict[str, Place] = defaultdict(Place)


class Unbroken(ResultStore):
    """What the broken ones are made from."""

    traits = ResultStoreTraits(chords=True)

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
        late = record.state == "RETRY" and kept is not None and kept[1] in ("FAILURE", "REVOKED")
        return kept is None or (kept[1] != "SUCCESS" and not late)

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

    def chord(self, group_id):
        """Return a chord that is not over; None: there is none."""
        found = self.place.chords.get(group_id)
        return found if found is not None and not found.over and found.ends > time.monotonic() else None

    def begin_chord(self, group_id, size):
        seconds = self.context.expires if self.context.chord_expires is None else self.context.chord_expires
        with self.place.news:
            chord = self.chord(group_id)
            if chord is None:
                self.place.chords[group_id] = Chord(size, time.monotonic() + seconds if seconds else float("inf"))
            elif not chord.begun:
                chord.size += size
                chord.begun = True

    def grow_chord(self, group_id, count=1):
        with self.place.news:
            if self.chord(group_id) is None:
                self.place.chords[group_id] = Chord(0, float("inf"))
                self.place.chords[group_id].begun = False
            self.place.chords[group_id].size += count

    def return_part(self, part, token, claim):
        with self.place.news:
            chord = self.chord(part.group_id)
            if chord is None:
                return Turn.OVER
            self.count(chord, part)
            if not chord.begun:
                return Turn.OVER
            if len(chord.parts) < chord.size:
                return Turn.WAIT
            return Turn.MINE if self.take(chord, token, claim) else Turn.TAKEN

    def count(self, chord, part):
        chord.parts.setdefault(part.task_id, part)

    def take(self, chord, token, claim):
        holder, until = chord.holder
        if holder not in ("", token) and until > time.monotonic():
            return False
        chord.holder = (token, time.monotonic() + claim)
        return True

    def holds(self, group_id, token):
        chord = self.chord(group_id)
        return chord is not None and chord.holder[0] == token and chord.holder[1] > time.monotonic()

    def chord_parts(self, group_id):
        chord = self.chord(group_id)
        if chord is None:
            return []
        return [each.value for each in sorted(chord.parts.values(), key=self.place_of)]

    def place_of(self, part):
        return float("inf") if part.index is None else part.index

    def hold_turn(self, group_id, token, claim):
        with self.place.news:
            return self.holds(group_id, token) and self.take(self.chord(group_id), token, claim)

    def end_chord(self, group_id, token, remember):
        with self.place.news:
            if not self.holds(group_id, token):
                return False
            self.fail_chord(group_id)
            return True

    def fail_chord(self, group_id):
        self.place.chords[group_id].over = True

    def save_group(self, group_id, document):
        seconds = self.context.expires
        self.place.groups[group_id] = (time.monotonic() + seconds if seconds else float("inf"), document)

    def fetch_group(self, group_id):
        ends, document = self.place.groups.get(group_id, (0.0, None))
        return document if ends > time.monotonic() else None

    def forget_group(self, group_id):
        self.place.groups.pop(group_id, None)


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


class ReplacesEndsByRetries(Unbroken):
    def may_replace(self, kept, record):
        return super().may_replace(kept, record) or (record.state == "RETRY" and kept[1] != "SUCCESS")


class KeepsEveryEnd(Unbroken):
    def may_replace(self, kept, record):
        return super().may_replace(kept, record) and (kept is None or kept[1] not in ("FAILURE", "REVOKED"))


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


# ---------------------------------------------------------------- chords


class KeepsPartsAsTheyCome(Unbroken):
    def place_of(self, part):
        return 0


class CountsEachReturn(Unbroken):
    def count(self, chord, part):
        super().count(chord, part)
        chord.size = min(chord.size, chord.size - 1 if part.value == b"another value" else chord.size)


class TakesTheLaterPart(Unbroken):
    def count(self, chord, part):
        chord.parts[part.task_id] = part


class GivesTheTurnToAll(Unbroken):
    def take(self, chord, token, claim):
        super().take(chord, token, claim)
        return True


class GivesTheTurnForGood(Unbroken):
    def take(self, chord, token, claim):
        return super().take(chord, token, 3600.0)


class LetsAnybodyEndIt(Unbroken):
    def end_chord(self, group_id, token, remember):
        self.fail_chord(group_id)
        return True


class NeverEnds(Unbroken):
    def end_chord(self, group_id, token, remember):
        return self.holds(group_id, token)


class MakesChordsUp(Unbroken):
    def return_part(self, part, token, claim):
        self.begin_chord(part.group_id, 2)
        return super().return_part(part, token, claim)


class DropsEarlyParts(Unbroken):
    def begin_chord(self, group_id, size):
        self.place.chords.pop(group_id, None)
        super().begin_chord(group_id, size)


class DoesNotGrow(Unbroken):
    def grow_chord(self, group_id, count=1):
        pass


class BeginsOnce(Unbroken):
    def begin_chord(self, group_id, size):
        if group_id not in self.place.chords:
            super().begin_chord(group_id, size)


class GivesTheTurnInARace(Unbroken):
    """It looks, and then it takes."""

    def return_part(self, part, token, claim):
        with self.place.news:
            chord = self.chord(part.group_id)
            if chord is None:
                return Turn.OVER
            self.count(chord, part)
            complete, free = len(chord.parts) >= chord.size, chord.holder[0] in ("", token)
        time.sleep(0.1)
        if not complete:
            return Turn.WAIT
        chord.holder = (token, time.monotonic() + claim)
        return Turn.MINE if free else Turn.TAKEN


class KeepsGroupsToItself(Unbroken):
    def __init__(self, url, options, context):
        super().__init__(url, options, context)
        self._groups = {}

    def save_group(self, group_id, document):
        self._groups[group_id] = document

    def fetch_group(self, group_id):
        return self._groups.get(group_id)


class KeepsChordsForEver(Unbroken):
    def begin_chord(self, group_id, size):
        self.place.chords[group_id] = Chord(size, float("inf"))


class CountsWithoutSayingSo(Unbroken):
    traits = ResultStoreTraits(chords=False)


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
    ReplacesEndsByRetries: "test_an_end_is_not_replaced_by_a_retry",
    KeepsEveryEnd: "test_an_end_is_not_replaced_by_a_retry",
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
    KeepsPartsAsTheyCome: "test_the_last_part_gets_the_turn_and_all_parts_in_order",
    NeverEnds: "test_the_last_part_gets_the_turn_and_all_parts_in_order",
    CountsEachReturn: "test_a_task_that_runs_twice_counts_once",
    TakesTheLaterPart: "test_a_task_that_runs_twice_counts_once",
    GivesTheTurnToAll: "test_the_turn_belongs_to_one_until_it_lapses",
    GivesTheTurnForGood: "test_the_turn_belongs_to_one_until_it_lapses",
    LetsAnybodyEndIt: "test_the_turn_belongs_to_one_until_it_lapses",
    MakesChordsUp: "test_parts_without_a_chord_get_no_turn",
    DropsEarlyParts: "test_parts_count_that_are_returned_before_their_number_is_known",
    DoesNotGrow: "test_a_chord_may_grow_and_begin_again",
    BeginsOnce: "test_a_chord_may_grow_and_begin_again",
    GivesTheTurnInARace: "test_one_of_many_at_once_gets_the_turn",
    KeepsGroupsToItself: "test_groups_are_kept_until_they_are_dropped",
    KeepsChordsForEver: "test_chords_and_groups_end_when_their_time_is_over",
    CountsWithoutSayingSo: "test_a_store_that_cannot_count_says_so",
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
