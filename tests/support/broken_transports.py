"""Transports that are broken on purpose, each in one way: what the suite for transports is there to find.

1. Each is a few lines over a transport that is whole. `MEANT` names the test that must notice.
2. `tests/testing/test_transport_suite.py` runs them; pytest does not collect this file by itself.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any, ClassVar

import msgspec
import pytest

from framework.api.transport import Consumer, Exchange, Transport
from framework.exceptions import ConnectionLost, TransportError
from framework.message import Outgoing, read
from framework.testing.transports import TransportSuite
from framework_transports.memory import MemoryTransport
from framework_transports.memory.broker import MemoryBroker
from framework_transports.memory.consumer import MemoryConsumer, MemoryDelivery
from framework_transports.memory.mailbox import MemoryMailbox
from framework_transports.memory.producer import MemoryProducer
from framework_transports.sqlite import SqliteTransport


class Unbroken(MemoryTransport):
    """What most of them are made from: the faces are classes of the transport."""

    Producer: ClassVar[type[MemoryProducer]] = MemoryProducer
    Consumer: ClassVar[type[MemoryConsumer]] = MemoryConsumer
    Mailbox: ClassVar[type[MemoryMailbox]] = MemoryMailbox

    def producer(self):
        return self.Producer(self._broker)

    def consumer(self):
        return self.Consumer(self._broker)

    def mailbox(self):
        return self.Mailbox(self._broker)


# ---------------------------------------------------------------- messages


class LosesAMessage(Unbroken):
    class Producer(MemoryProducer):
        def publish(self, messages):
            super().publish([message for n, message in enumerate(messages) if n % 50 != 49])


class DeliversTwice(Unbroken):
    class Consumer(MemoryConsumer):
        def fetch(self, limit):
            found = list(super().fetch(limit - 1)) if limit > 1 else list(super().fetch(limit))
            return found + found[-1:] if limit > 1 else found


class KeepsNoOrder(Unbroken):
    class Consumer(MemoryConsumer):
        def fetch(self, limit):
            return list(super().fetch(limit))[::-1]


class PublishesLater(Unbroken):
    class Producer(MemoryProducer):
        def publish(self, messages):
            threading.Timer(0.05, self._open().publish, (messages,), {"required": True}).start()


class LosesHeaders(Unbroken):
    class Producer(MemoryProducer):
        def publish(self, messages):
            super().publish([msgspec.structs.replace(each, headers=_few(each.headers)) for each in messages])


def _few(headers):
    return {key: value for key, value in headers.items() if key in ("task", "id")}


class CutsBodies(Unbroken):
    class Producer(MemoryProducer):
        def publish(self, messages):
            super().publish([msgspec.structs.replace(each, body=each.body[:65_536]) for each in messages])


class GivesMoreThanAsked(Unbroken):
    class Consumer(MemoryConsumer):
        def fetch(self, limit):
            return super().fetch(limit * 2)


class ServesOneQueueOnly(Unbroken):
    class Consumer(MemoryConsumer):
        def add_queue(self, queue):
            if not self.names:
                super().add_queue(queue)


class EmptiesWhatIsDeclaredAgain(Unbroken):
    class Producer(MemoryProducer):
        def declare(self, queues):
            super().declare(queues)
            for queue in queues:
                self._open().queues.pop(queue.name, None)
            super().declare(queues)


class DropsInSilence(Unbroken):
    class Producer(MemoryProducer):
        def publish(self, messages):
            super().publish([each for each in messages if each.exchange or each.routing_key in self._open().queues])


class FeedsOneQueueOnly(Unbroken):
    class Producer(MemoryProducer):
        def declare(self, queues):
            for queue in queues:
                if queue.name == queue.routing_key or queue.routing_key != "a" or not getattr(self, "fed", False):
                    self.fed = True
                    super().declare([queue])
                else:
                    super().declare([msgspec.structs.replace(queue, routing_key=queue.name)])


class TakesPatternsForKeys(Unbroken):
    class Producer(MemoryProducer):
        def declare(self, queues):
            super().declare(
                [msgspec.structs.replace(each, routing_key=each.routing_key.replace("*", "#")) for each in queues]
            )


class KnowsNoPriorities(Unbroken):
    class Producer(MemoryProducer):
        def publish(self, messages):
            super().publish([msgspec.structs.replace(each, priority=None) for each in messages])


class ProducerOfOneThread(Unbroken):
    class Producer(MemoryProducer):
        def publish(self, messages):
            if threading.current_thread() is threading.main_thread():
                super().publish(messages)


# ---------------------------------------------------------------- settling


class AckDoesNothing(Unbroken):
    class Consumer(MemoryConsumer):
        def _keep(self):
            self.settled[:] = [each for each in self.settled if each[1] is not None]

        def fetch(self, limit):
            self._keep()
            return super().fetch(limit)

        def flush(self):
            self._keep()
            super().flush()

        def close(self, *, requeue):
            self._keep()
            super().close(requeue=requeue)


class _Settling(MemoryConsumer):
    """Changes what deliveries say, before it is done."""

    def change(self, counted: int | None) -> int | None:
        return counted

    def _change(self):
        self.settled[:] = [(number, self.change(counted)) for number, counted in self.settled]

    def fetch(self, limit):
        self._change()
        return super().fetch(limit)

    def flush(self):
        self._change()
        super().flush()

    def close(self, *, requeue):
        self._change()
        super().close(requeue=requeue)


class ReleasedIsLost(Unbroken):
    class Consumer(_Settling):
        def change(self, counted):
            return None if counted == 0 else counted


class GivenBackIsLost(Unbroken):
    class Consumer(_Settling):
        def change(self, counted):
            return None if counted == 1 else counted


class SettlesOnlyWhenFlushed(Unbroken):
    class Consumer(MemoryConsumer):
        def fetch(self, limit):
            kept, self.settled[:] = list(self.settled), []
            found = super().fetch(limit)
            self.settled[:0] = kept
            return found


class LastWordCounts(Unbroken):
    class Consumer(_Settling):
        class Delivery(MemoryDelivery):
            def _settle(self, counted):
                if self._consumer is not None:
                    self._consumer.settled.append((self._waiting.number, counted))

        def _change(self):
            self.settled[:] = list(dict(self.settled).items())

        def fetch(self, limit):
            return [self.Delivery(self, each.queue, each._waiting) for each in super().fetch(limit)]


class GivesBackToTheEnd(Unbroken):
    class Consumer(MemoryConsumer):
        def flush(self):
            given_back = [number for number, counted in self.settled if counted is not None]
            again = [self._unacked[number] for number in given_back]
            self.settled[:] = [(number, None) for number, _ in self.settled]
            super().flush()
            for queue, waiting in again:
                incoming = read(waiting.envelope)
                MemoryProducer(self._open()).publish([Outgoing(incoming.body, incoming.headers, routing_key=queue)])


class CountsNothing(Unbroken):
    class Consumer(_Settling):
        def change(self, counted):
            return 0 if counted == 1 else counted


class KeepsWhatItHasWhenItCloses(Unbroken):
    class Consumer(MemoryConsumer):
        def close(self, *, requeue):
            if self._broker is not None:
                self.flush()
                self._unacked.clear()
            super().close(requeue=False)


class ForgetsWhatItHadFirst(SqliteTransport):
    """Messages are acknowledged when they are fetched: a process that dies takes them along."""

    def consumer(self):
        consumer = super().consumer()
        fetch = consumer.fetch

        def fetch_and_forget(limit):
            found = fetch(limit)
            for delivery in found:
                delivery.ack()
            consumer.flush()
            return found

        consumer.fetch = fetch_and_forget
        return consumer


class GoesOnWithWhatWasCancelled(Unbroken):
    class Consumer(MemoryConsumer):
        def cancel_queue(self, name):
            pass


class PurgesWithoutCounting(Unbroken):
    def purge(self, queue):
        super().purge(queue)
        return 0


class TakesNothingForEmpty(Unbroken):
    def sizes(self, queues):
        return {name: size or 0 for name, size in super().sizes(queues).items()}


# ---------------------------------------------------------------- waking


class WaitsInFetch(Unbroken):
    class Consumer(MemoryConsumer):
        def fetch(self, limit):
            for _ in range(200):
                if found := super().fetch(limit):
                    return found
                time.sleep(0.01)
            return []


class NeverWakes(Unbroken):
    class Consumer(MemoryConsumer):
        def __init__(self, broker):
            super().__init__(broker)
            self.ends = socket.socketpair()

        def fileno(self):
            return self.ends[0].fileno()

        def close(self, *, requeue):
            super().close(requeue=requeue)
            for end in self.ends:
                end.close()


class LosesWakeUps(Unbroken):
    """Falls asleep without having armed."""

    class Consumer(MemoryConsumer):
        turns = 0

        def fetch(self, limit):
            found = super().fetch(limit)
            self.turns += 1
            if self.turns % 10 == 0:
                self.armed = False
            return found


class NeverSleeps(NeverWakes):
    class Consumer(NeverWakes.Consumer):
        def __init__(self, broker):
            super().__init__(broker)
            self.ends[1].send(b"x")


class ChangesItsDescriptor(Unbroken):
    class Consumer(MemoryConsumer):
        def fileno(self):
            return os.dup(super().fileno())


class AttendsWithoutCare(Unbroken):
    class Consumer(MemoryConsumer):
        def poll_while_full(self):
            self.fetch(1)
            return ()


class HoardsWhileItRests(Unbroken):
    class Consumer(MemoryConsumer):
        def pause_delivery(self, running):
            super().pause_delivery(running)
            self.fetch(1)


class HeartbeatsGiveBack(Unbroken):
    class Consumer(MemoryConsumer):
        def heartbeat(self):
            self.settled.extend((number, 1) for number in self._unacked)
            self.flush()


# ---------------------------------------------------------------- fan-out


class ReachesOneMailboxOnly(Unbroken):
    class Mailbox(MemoryMailbox):
        def reach(self, messages):
            broker = self._open()
            everybody = set(broker.mailboxes)
            listening = [each for each in everybody if each.subscriptions]
            broker.mailboxes.difference_update(listening[1:])
            try:
                return super().reach(messages)
            finally:
                broker.mailboxes.update(everybody)


class SaysEverythingTwice(Unbroken):
    class Mailbox(MemoryMailbox):
        def reach(self, messages):
            return super().reach([*messages, *messages])


class ProducersAreNotHeard(Unbroken):
    class Producer(MemoryProducer):
        def publish(self, messages):
            super().publish([each for each in messages if each.exchange_type != "fanout"])


class MailWakesNobody(Unbroken):
    class Mailbox(MemoryMailbox):
        def __init__(self, broker):
            super().__init__(broker)
            self.ends = socket.socketpair()

        def fileno(self):
            return self.ends[0].fileno()

        def close(self):
            super().close()
            for end in self.ends:
                end.close()


class RepliesToEverybody(Unbroken):
    class Mailbox(MemoryMailbox):
        def subscribe(self, queue):
            exchange = Exchange(queue.exchange.name, type="fanout", durable=False)
            super().subscribe(msgspec.structs.replace(queue, exchange=exchange))


class CannotReplyToNobody(Unbroken):
    class Mailbox(MemoryMailbox):
        def reach(self, messages):
            reached = super().reach(messages)
            if not any(each.exchange_type == "fanout" for each in messages):
                raise TransportError("nobody is there")
            return reached


class HearsOnlyItsOwnKind(Unbroken):
    """Of events by topic, only the first key that was asked for."""

    class Mailbox(MemoryMailbox):
        def subscribe(self, queue):
            super().subscribe(msgspec.structs.replace(queue, routing_key=queue.routing_key.replace("#", "sent")))


class Miscounts(Unbroken):
    class Mailbox(MemoryMailbox):
        def reach(self, messages):
            return (super().reach(messages) or 0) + 1


class HearsWhenItIsClosed(Unbroken):
    class Mailbox(MemoryMailbox):
        def close(self):
            pass


# ---------------------------------------------------------------- parking


class ParkedIsLost(Unbroken):
    class Consumer(MemoryConsumer):
        def _park(self, broker):
            for number, _until, _key in self.parks:
                self._unacked.pop(number, None)
            self.parks = []


class ParkedComesAtOnce(Unbroken):
    class Consumer(MemoryConsumer):
        def _park(self, broker):
            self.parks = [(number, 0.0, key) for number, _until, key in self.parks]
            super()._park(broker)


class ParkedIsCounted(Unbroken):
    class Consumer(MemoryConsumer):
        def _park(self, broker):
            for number, _until, _key in self.parks:
                queue, waiting = self._unacked[number]
                self._unacked[number] = queue, waiting._replace(deliveries=waiting.deliveries + 1)
            super()._park(broker)


class NamesNoTime(Unbroken):
    class Consumer(MemoryConsumer):
        due_at = property(lambda self: None, lambda self, value: None)


class NamesTheLastTime(Unbroken):
    class Consumer(MemoryConsumer):
        def fetch(self, limit):
            before = self.due_at
            found = super().fetch(limit)
            self.due_at = before or self.due_at
            return found


class ParkedDiesWithItsConsumer(Unbroken):
    class Consumer(MemoryConsumer):
        def close(self, *, requeue):
            if self._broker is not None:
                for name in self.names:
                    self._broker.parked.pop(name, None)
            super().close(requeue=requeue)


class _ParkingTellsNobody(MemoryBroker):
    def park(self, name, waiting, until, key):
        armed = [consumer for consumer in self.consumers if consumer.armed]
        for consumer in armed:
            consumer.armed = False
        super().park(name, waiting, until, key)
        for consumer in armed:
            consumer.armed = True


class ParkingTellsNobody(Unbroken):
    def __init__(self, url, options, settings):
        super().__init__(url, options, settings)
        self._broker = _quiet_brokers.setdefault(url, _ParkingTellsNobody())


_quiet_brokers: dict[str, MemoryBroker] = {}


class BringsBackOnlySome(Unbroken):
    class Consumer(MemoryConsumer):
        def _park(self, broker):
            self.parks = self.parks[:100]
            super()._park(broker)


class ParkedIsNotPurged(Unbroken):
    def purge(self, queue):
        parked = self._broker.parked.pop(queue.name, None)
        dropped = super().purge(queue)
        if parked is not None:
            self._broker.parked[queue.name] = parked
        return dropped


class ParkingIsNotTheLastWord(Unbroken):
    class Consumer(MemoryConsumer):
        def close(self, *, requeue):
            self.parks = []
            super().close(requeue=requeue)


class ParkedForgetsItsPriority(Unbroken):
    class Consumer(MemoryConsumer):
        def _park(self, broker):
            for number, _until, _key in self.parks:
                queue, waiting = self._unacked[number]
                self._unacked[number] = queue, waiting._replace(priority=0, number=-number)
            super()._park(broker)


class ForgetsToRecall(Unbroken):
    class Consumer(MemoryConsumer):
        recall = Consumer.recall


class RecallsEverything(Unbroken):
    class Consumer(MemoryConsumer):
        def recall(self, keys):
            parked = [self._broker.parked.get(name, ()) for name in self.names]
            return super().recall([key for each in parked for key in each._numbers] if parked else keys)


class RecallsForGood(Unbroken):
    """What is recalled is gone from the broker at once, whatever becomes of the delivery."""

    class Consumer(MemoryConsumer):
        def recall(self, keys):
            found = super().recall(keys)
            for delivery in found:
                self._unacked.pop(delivery._waiting.number)
            return found


class RecallsACopy(Unbroken):
    class Consumer(MemoryConsumer):
        def recall(self, keys):
            found = super().recall(keys)
            for delivery in found:
                self._broker.park(delivery.queue, delivery._waiting, time.time() + 3600, keys[0])
            return found


class RecallsOneOfEach(Unbroken):
    class Consumer(MemoryConsumer):
        def recall(self, keys):
            found = super().recall(keys)
            for delivery in found[1:]:
                delivery.park(time.time() + 3600)
            return found[:1]


class RecallsBeforeItParks(Unbroken):
    class Consumer(MemoryConsumer):
        def recall(self, keys):
            parks, self.parks = self.parks, []
            found = super().recall(keys)
            self.parks = parks
            return found


class RecallsFromAllQueues(Unbroken):
    class Consumer(MemoryConsumer):
        def recall(self, keys):
            names, self.names = self.names, list(self._broker.queues)
            found = super().recall(keys)
            self.names = names
            return found


class DisarmsWhenItRecalls(Unbroken):
    class Consumer(MemoryConsumer):
        def recall(self, keys):
            self.armed = False
            return super().recall(keys)


# ---------------------------------------------------------------- the end


class ServesWhenItIsClosed(Unbroken):
    class Consumer(MemoryConsumer):
        def fetch(self, limit):
            try:
                return super().fetch(limit)
            except ConnectionLost:
                return []


class KeepsTheBrokerToItself(Unbroken):
    def __init__(self, url, options, settings):
        super().__init__(url, options, settings)
        self._broker = MemoryBroker()


class ConnectsWhenItIsMade(Unbroken):
    def __init__(self, url, options, settings):
        super().__init__(url, options, settings)
        self.connection = os.open(os.devnull, os.O_RDONLY)


class TakesWhatIsMisspelt(Unbroken):
    @classmethod
    def accepts(cls, scheme):
        return True


class ShowsPasswords(Unbroken):
    @property
    def display_url(self):
        return self.url


class TellsTooLittle(Unbroken):
    def info(self):
        return {"transport": "memory"}


class LeaksADescriptor(Unbroken):
    class Consumer(MemoryConsumer):
        def __init__(self, broker):
            super().__init__(broker)
            os.open(os.devnull, os.O_RDONLY)


class LeaksAThread(Unbroken):
    class Producer(MemoryProducer):
        def __init__(self, broker):
            super().__init__(broker)
            threading.Thread(target=threading.Event().wait, daemon=True, name="leaked").start()


#: Each broken transport and the test that must notice.
MEANT: dict[type[Transport], str] = {
    LosesAMessage: "test_every_message_comes_once",
    DeliversTwice: "test_every_message_comes_once",
    KeepsNoOrder: "test_messages_come_in_order",
    PublishesLater: "test_publish_returns_when_the_broker_has_them",
    LosesHeaders: "test_a_message_keeps_everything_it_had",
    CutsBodies: "test_bodies_of_any_size[200000]",
    GivesMoreThanAsked: "test_fetch_returns_no_more_than_it_was_asked_for",
    ServesOneQueueOnly: "test_one_consumer_serves_several_queues",
    EmptiesWhatIsDeclaredAgain: "test_declaring_twice_is_harmless",
    DropsInSilence: "test_no_message_is_dropped_in_silence",
    FeedsOneQueueOnly: "test_a_direct_exchange_feeds_every_queue_with_the_key",
    TakesPatternsForKeys: "test_a_topic_exchange_matches_keys",
    KnowsNoPriorities: "test_the_highest_priority_comes_first",
    ProducerOfOneThread: "test_threads_share_a_producer",
    AckDoesNothing: "test_what_is_acknowledged_is_gone",
    ReleasedIsLost: "test_each_settlement_does_what_it_says",
    GivenBackIsLost: "test_each_settlement_does_what_it_says",
    SettlesOnlyWhenFlushed: "test_settlements_are_sent_with_the_next_fetch",
    LastWordCounts: "test_a_delivery_is_settled_once",
    GivesBackToTheEnd: "test_what_is_given_back_comes_first",
    CountsNothing: "test_deliveries_are_counted",
    KeepsWhatItHasWhenItCloses: "test_closing_gives_back_what_is_on_loan",
    ForgetsWhatItHadFirst: "test_what_a_killed_process_had_comes_back",
    GoesOnWithWhatWasCancelled: "test_a_cancelled_queue_keeps_its_messages",
    PurgesWithoutCounting: "test_sizes_and_purge",
    TakesNothingForEmpty: "test_a_queue_that_does_not_exist_has_no_size",
    WaitsInFetch: "test_fetch_does_not_wait",
    NeverWakes: "test_a_message_wakes_an_idle_consumer",
    LosesWakeUps: "test_no_wake_up_is_lost_in_a_race",
    NeverSleeps: "test_it_does_not_spin",
    ChangesItsDescriptor: "test_the_descriptor_stays_the_same",
    AttendsWithoutCare: "test_attending_takes_nothing_away",
    HoardsWhileItRests: "test_who_rests_leaves_the_others_theirs",
    HeartbeatsGiveBack: "test_heartbeats_harm_nothing",
    ParkedIsLost: "test_what_is_parked_comes_at_its_time",
    ParkedComesAtOnce: "test_what_is_parked_comes_at_its_time",
    ParkedIsCounted: "test_what_is_parked_comes_at_its_time",
    NamesNoTime: "test_the_time_is_named",
    NamesTheLastTime: "test_the_time_is_named",
    ParkedDiesWithItsConsumer: "test_what_is_parked_outlives_its_consumer",
    ParkingTellsNobody: "test_others_learn_of_it",
    BringsBackOnlySome: "test_many_are_parked_and_each_comes_once",
    ParkedIsNotPurged: "test_it_is_looked_at_and_purged",
    ParkingIsNotTheLastWord: "test_parking_settles",
    ParkedForgetsItsPriority: "test_it_keeps_its_priority",
    ForgetsToRecall: "test_what_is_recalled_comes_at_once",
    RecallsEverything: "test_what_is_recalled_comes_at_once",
    RecallsForGood: "test_what_is_recalled_is_on_loan",
    RecallsACopy: "test_what_is_recalled_comes_at_once",
    RecallsOneOfEach: "test_all_of_a_key_are_recalled",
    RecallsBeforeItParks: "test_recalling_settles",
    RecallsFromAllQueues: "test_recalling_is_for_the_queues_that_are_consumed",
    DisarmsWhenItRecalls: "test_recalling_keeps_it_awake",
    ReachesOneMailboxOnly: "test_a_broadcast_reaches_every_mailbox_once",
    SaysEverythingTwice: "test_a_broadcast_reaches_every_mailbox_once",
    ProducersAreNotHeard: "test_a_producer_broadcasts_too",
    MailWakesNobody: "test_a_broadcast_wakes_who_sleeps",
    RepliesToEverybody: "test_replies_reach_who_asked",
    CannotReplyToNobody: "test_replies_to_nobody_vanish",
    HearsOnlyItsOwnKind: "test_events_are_chosen_by_their_key",
    Miscounts: "test_reach_counts_subscribers",
    HearsWhenItIsClosed: "test_a_closed_mailbox_is_out",
    ServesWhenItIsClosed: "test_closed_faces_say_so",
    KeepsTheBrokerToItself: "test_transports_to_one_url_share_a_broker",
    ConnectsWhenItIsMade: "test_making_a_transport_connects_to_nothing",
    TakesWhatIsMisspelt: "test_its_urls_lead_to_it",
    ShowsPasswords: "test_no_password_is_shown",
    TellsTooLittle: "test_info_can_be_shown",
    LeaksADescriptor: "test_ten_lives_leave_nothing_behind",
    LeaksAThread: "test_ten_lives_leave_nothing_behind",
}


class TestUnbroken(TransportSuite):
    """The control group: what the broken ones are made from passes everything."""

    transport = Unbroken
    url = "memory://unbroken"
    patience = 5


class _InAFile(TransportSuite):
    @pytest.fixture
    def broker_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/broker.db"


def _suite(kind: type[Transport]) -> Any:
    name = f"Test{kind.__name__}"
    given = {"transport": kind, "url": f"memory://{name}", "patience": 1.0, "__module__": __name__}
    return type(name, (TransportSuite if issubclass(kind, MemoryTransport) else _InAFile,), given)


for _kind in MEANT:
    globals()[f"Test{_kind.__name__}"] = _suite(_kind)
