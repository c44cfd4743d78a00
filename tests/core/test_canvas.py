"""Workflows before anything is sent: how they are put together, frozen, stamped, run eagerly, and what is refused."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import weakref

import pytest

from framework import App, chain, chord, group, signature
from framework.api.result_store import Turn
from framework.client.canvas import Signature, StampingVisitor, chunks, xmap
from framework.client.canvas.documents import Member, frozen_tasks
from framework.client.request import Context, pop_request, push_request
from framework.client.workflow import chord_counting
from framework.exceptions import ChordError, ConfigError, FrameworkError, ImproperlyConfigured
from framework.message import read
from framework.wire.serialization import decode_task


@pytest.fixture
def app():
    app = App("proj", broker="memory://", backend="none://")

    @app.task(name="add")
    def add(x, y):
        return x + y

    @app.task(name="total")
    def total(numbers):
        return sum(numbers)

    @app.task(name="fail")
    def fail(*_args):
        raise ValueError("broken")

    @app.task(name="swap", bind=True)
    def swap(self, numbers):
        raise self.replace(group(add.s(number, number) for number in numbers) | total.s())

    sent(app)  # what other tests have left
    yield app
    app.close()


@pytest.fixture
def add(app):
    return app.tasks["add"]


@pytest.fixture
def total(app):
    return app.tasks["total"]


def sent(app):
    """Return the headers of all messages that were sent, oldest first."""
    queue = app.queue_for("celery")
    consumer = app.transport.consumer()
    try:
        consumer.add_queue(queue)
        deliveries = consumer.fetch(100)
        for delivery in deliveries:
            delivery.ack()
        return [read(delivery.payload).headers for delivery in deliveries]
    finally:
        consumer.close(requeue=True)


# ---------------------------------------------------------------- putting together


def test_what_follows_a_group_is_its_body(add, total):
    made = group(add.s(1, 1), add.s(2, 2)) | total.s()
    assert isinstance(made, chord)
    longer = made | add.s(1) | add.s(2)
    assert isinstance(longer, chord)
    assert repr(longer) == "[add(1, 1), add(2, 2)] | total() | add(1) | add(2)"
    assert repr(made) == "[add(1, 1), add(2, 2)] | total()", "the first is as it was"
    (only,) = chain(group(add.s(1, 1)), total.s(), add.s(1)).tasks
    assert repr(only) == "[add(1, 1)] | total() | add(1)"
    first, second = (add.s(1, 1) | group(add.s(1), add.s(2)) | total.s() | add.s(3)).tasks
    assert (first.task, repr(second)) == ("add", "[add(1), add(2)] | total() | add(3)")
    assert repr(group(add.s(1, 1)) | group(total.s(), total.s()) | total.s()) == (
        "[add(1, 1)] | [total(), total()] | total()"
    )


def test_a_workflow_comes_back_from_its_document(app, add, total):
    made = add.s(1, 1) | group(add.s(1), chord([add.s(2)], total.s())) | total.s()
    made.freeze()
    again = signature(json.loads(json.dumps(made)), app=app)
    assert isinstance(again, chain)
    assert repr(again) == repr(made)
    assert again.freeze().as_tuple() == made.freeze().as_tuple()


def test_a_header_comes_to_one_result_each(add, total):
    made = chord(
        [
            group(add.s(1, 1), group(add.s(2, 2))),
            add.s(1, 1) | group(add.s(2), add.s(3)),
            chord([add.s(1, 1)], total.s()),
        ],
        total.s(),
    )
    made.freeze()
    kinds = [task.subtask_type for task in made.tasks]
    assert kinds == [None, None, "chain", "chord"]
    collecting = made.tasks[2].tasks[-1]
    assert (collecting.subtask_type, collecting.body.task) == ("chord", "celery.accumulate")


def test_what_collects_goes_where_its_group_goes(add, total):
    made = chord([add.s(1, 1) | group(add.s(2).set(queue="media"), add.s(3))], total.s())
    made.freeze()
    assert made.tasks[0].tasks[-1].body.options["queue"] == "media"


def test_options_of_a_group_go_to_its_tasks(add, total):
    made = group([add.s(1, 1), add.s(2, 2).set(queue="own")]).set(queue="media") | total.s()
    assert [task.options["queue"] for task in made.tasks] == ["media", "own"]


def test_callbacks_of_a_chord_are_those_of_its_body(add, total):
    made = chord([add.s(1, 1)], total.s())
    made.link(add.s(1))
    made.on_error(add.s(2))
    assert [link.args for link in made.body.options["link"]] == [(1,)]
    assert [link.args for link in made.body.options["link_error"]] == [(2,)]
    assert "link_error" not in made.tasks[0].options
    made.app.conf.update(task_allow_error_cb_on_chord_header=True)
    made.link_error(add.s(3))
    assert [link.args for link in made.tasks[0].options["link_error"]] == [(3,)]


def test_the_result_of_a_chord_has_its_header_above_it(add, total):
    result = (add.s(1, 1) | group(add.s(1), add.s(2)) | total.s() | add.s(1)).freeze()
    names = []
    node = result
    while node is not None:
        names.append(type(node).__name__)
        node = node.parent
    assert names == ["AsyncResult", "AsyncResult", "GroupResult", "AsyncResult"]


def test_what_is_immutable_takes_nothing_from_a_task_before_it(add, total):
    for made in (group(add.s(1, 1)), chain(add.s(1, 1), add.s(1)), chord([add.s(1, 1)], total.s())):
        made.set(immutable=True)
        assert made.clone((5,), {"z": 1}).tasks[0].args == (1, 1)
        made.set(immutable=False)
        assert made.clone((5,)).tasks[0].args == (5, 1, 1)


def test_skew_delays_one_after_the_other(add):
    made = group(add.s(n, n) for n in range(4)).skew(1, 3)
    assert [task.options["countdown"] for task in made.tasks] == [1, 2, 3, 3]


def test_mapped_calls_go_where_the_task_goes(app):
    @app.task(queue="media", name="resize")
    def resize(size):
        return size

    app.conf.update(task_routes={"routed": {"queue": "elsewhere"}})

    @app.task(name="routed")
    def routed(size):
        return size

    assert resize.map([1, 2]).options == {"queue": "media"}
    assert routed.starmap([(1,), (2,)]).options == {"queue": "elsewhere"}
    assert resize.map(iter([1, 2])).kwargs["it"] == [1, 2]
    assert isinstance(resize.map([1]), xmap)
    parts = resize.chunks(zip(range(5), strict=False), 2)
    assert isinstance(parts, chunks)
    assert [part.kwargs["it"] for part in parts.group().tasks] == [[(0,), (1,)], [(2,), (3,)], [(4,)]]
    with pytest.raises(ValueError, match="at least one"):
        resize.chunks([1], 0)
    with pytest.raises(TypeError, match="group"):
        (resize.s(1) | parts).freeze()


# ---------------------------------------------------------------- refusing


def test_without_a_store_that_counts_chords_are_refused_before_anything_is_sent(app, add, total):
    for made in (chord([add.s(1, 1)], total.s()), group(add.s(1, 1)) | total.s()):
        with pytest.raises(ConfigError, match=r"disabled:// can keep neither chords .*sqlite:///results\.db"):
            made.apply_async()
    assert app.transport.sizes([app.queue_for("celery")])["celery"] in (0, None)


def test_a_chord_without_a_body_is_refused(add):
    with pytest.raises(FrameworkError, match="needs a body"):
        chord([add.s(1, 1)]).apply_async()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("countdwon", "countdown"), ("prioritiy", "priority"), ("routing_keys", "routing_key"), ("expire", "expires")],
)
def test_a_misspelt_option_is_refused(app, add, name, meant):
    for call in (
        lambda: add.apply_async((1, 1), **{name: 1}),
        lambda: add.s(1, 1).apply_async(**{name: 1}),
        lambda: app.send_task("add", (1, 1), **{name: 1}),
        lambda: app.send_many([add.s(1, 1)], **{name: 1}),
    ):
        with pytest.raises(TypeError, match=f"no option '{name}'; did you mean {meant}"):
            call()


def test_other_options_are_let_through(app, add):
    add.apply_async((1, 1), trace_id="T", tenant=3, correlation_id="C", stamped_headers=["expire"], expire="never")
    (headers,) = sent(app)
    assert headers["stamps"] == {"expire": "never"}


def test_inside_a_task_a_misspelt_option_is_logged_once(app, add, caplog):
    token = push_request(Context({"id": "T", "task": "add"}, called_directly=False))
    try:
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                add.apply_async((1, 1), ignore_resultt=True)
    finally:
        pop_request(token)
    assert [record.message for record in caplog.records].count(
        "a call has no option 'ignore_resultt'; did you mean ignore_result?"
    ) == 1


def test_options_that_are_none_do_not_go_to_a_body(tmp_path):
    with App("proj", broker="memory://bodies", backend=f"sqlite:///{tmp_path}/results.db") as app:

        @app.task(name="add")
        def add(x, y):
            return x + y

        made = chord([add.s(1, 1)], chain(add.s(1), add.s(2)))
        made.apply_async(chain=None, priority=None, queue="bodies", countdown=5)
        queue = app.queue_for("bodies")
        consumer = app.transport.consumer()
        try:
            consumer.add_queue(queue)
            (delivery,) = consumer.fetch(10)
            _args, _kwargs, embed = decode_task(read(delivery.payload))
        finally:
            consumer.close(requeue=True)
    options = embed["chord"]["options"]
    assert options["queue"] == "bodies"
    assert {"chain", "priority", "countdown"}.isdisjoint(options)


# ---------------------------------------------------------------- eager


def test_eager_chords_fail_as_real_ones_do(app, add, total):
    seen = []

    @app.task(name="note")
    def note(ident):
        seen.append(ident)

    made = chord([add.s(1, 1), app.tasks["fail"].s()], total.s())
    made.link_error(note.s())
    result = made.apply()
    assert result.state == "FAILURE"
    with pytest.raises(ChordError, match="ValueError"):
        result.get()
    assert seen == [result.id]
    assert [each.state for each in result.parent] == ["SUCCESS", "FAILURE"]


def test_eager_chords_with_a_group_as_body_fail_as_real_ones_do(app, add, total):
    seen = []

    @app.task(name="note")
    def note(request, error, trace):
        seen.append((request.id, repr(error)))

    own = add.s(1).on_error(note.s())
    made = chord([add.s(1, 1), app.tasks["fail"].s()], group(own, group(total.s(), total.s() | add.s(1))))
    made.link_error(note.s())
    result = made.apply()
    assert [each.state for each in result.results] == ["FAILURE"] * 3
    with pytest.raises(ValueError, match="broken"):
        result.get()
    assert seen == [(each.id, "ValueError('broken')") for each in result.results]
    assert [each.state for each in result.parent] == ["SUCCESS", "FAILURE"]


def test_always_eager_runs_whole_workflows(app, add, total):
    app.conf.update(task_always_eager=True)
    assert (add.s(1, 1) | add.s(2) | add.s(3)).delay().get() == 7
    assert (add.s(1, 1) | group(add.s(1), add.s(2)) | total.s() | add.s(1)).apply_async().get() == 8
    assert group(add.s(1, 1), chain(add.s(1, 1), add.s(1)))().get() == [2, 3]
    assert chord([add.s(1, 1)])(total.s()).get() == 2
    assert app.tasks["swap"].delay([1, 2]).get() == 6
    assert total.map([[1, 2], [3]]).apply_async().get() == [3, 3]
    assert add.chunks([(1, 1), (2, 2), (3, 3)], 2)().get() == [[2, 4], [6]]


# ---------------------------------------------------------------- iterators

MANY = 3_000


def waiting(app):
    return app.transport.sizes([app.queue_for("celery")])["celery"]


class Watched:
    """An iterator of calls that notes what was sent before it was read to its end, and how many calls live at once."""

    def __init__(self, app, add):
        self._app, self._add = app, add
        self.alive = self.most_alive = self.sent_before_its_end = 0

    def __iter__(self):
        for number in range(MANY):
            sig = self._add.s(number, number)
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
            weakref.finalize(sig, self._gone)
            yield sig
            del sig
        self.sent_before_its_end = waiting(self._app)

    def _gone(self):
        self.alive -= 1


STREAMED = {
    "group": lambda tasks, total: group(tasks),
    "group in a chain": lambda tasks, total: chain(group(tasks)),
    "group with options": lambda tasks, total: group(tasks).set(priority=3),
    "chord": lambda tasks, total: chord(tasks, total),
    "chord of a group": lambda tasks, total: chord(group(tasks).set(priority=3), total),
    "group then task": lambda tasks, total: group(tasks) | total,
    "chain of a group and a task": lambda tasks, total: chain(group(tasks), total),
    "group then two tasks": lambda tasks, total: group(tasks) | total | total,
    "group then group": lambda tasks, total: group(tasks) | group(total, total),
}


@pytest.fixture
def counting(app, tmp_path):
    app.conf.update(result_backend=f"sqlite:///{tmp_path}/results.db")
    yield app
    app.transport.purge(app.queue_for("celery"))


@pytest.mark.parametrize("kind", STREAMED)
def test_what_an_iterator_gives_is_sent_as_it_comes(counting, add, total, kind):
    watched = Watched(counting, add)
    result = STREAMED[kind](iter(watched), total.s()).apply_async(link_error=total.s())
    header = result
    while header.parent is not None:
        header = header.parent
    assert MANY - 1_000 <= watched.sent_before_its_end < MANY
    assert watched.most_alive <= 1_500
    assert len(header) == MANY
    consumer = counting.transport.consumer()
    consumer.add_queue(counting.queue_for("celery"))
    found = {}
    while deliveries := consumer.fetch(1_000):
        for delivery in deliveries:
            headers = read(delivery.payload).headers
            found[headers["id"]] = headers["group_index"]
            delivery.ack()
    consumer.close(requeue=True)
    assert found == {each.id: place for place, each in enumerate(header)}


@pytest.mark.parametrize("kind", STREAMED)
def test_what_an_iterator_gave_is_sent_once(counting, add, total, kind):
    made = STREAMED[kind]((add.s(number, number) for number in range(3)), total.s())
    made.apply_async()
    assert len(sent(counting)) == 3
    with pytest.raises(FrameworkError, match="make the group of a list"):
        made.apply_async()
    assert sent(counting) == []


@pytest.mark.parametrize("kind", STREAMED)
def test_what_an_iterator_gives_is_kept_when_it_is_looked_at(counting, add, total, kind):
    def make():
        return STREAMED[kind]((add.s(number, number) for number in range(3)), total.s())

    same = STREAMED[kind]([add.s(number, number) for number in range(3)], total.s())
    for look in (
        repr,
        json.dumps,
        lambda made: [each.tasks for each in (made.tasks if isinstance(made, chain) else [made])],
        lambda made: made.freeze(),
        lambda made: made == same,
    ):
        made = make()
        look(made)
        for _ in range(2):
            made.apply_async()
            assert len(sent(counting)) == 3
    assert make() == same
    assert json.dumps(make()) == json.dumps(same)
    assert repr(make()) == repr(same)
    assert repr(pickle.loads(pickle.dumps(make()))) == repr(same)
    assert repr(copy.deepcopy(make())) == repr(same)


def test_two_workflows_may_be_made_of_one_group_of_an_iterator(counting, add, total):
    one = group(add.s(number, number) for number in range(3))
    first, second = one | total.s(), one | total.s()
    first.freeze()
    for made in (first, second, one, one.clone()):
        made.apply_async()
        assert len(sent(counting)) == 3


def test_a_part_that_comes_before_the_size_is_not_said_to_be_late(counting, add, total, caplog):
    counting.result_store.grow_chord("g", 0)
    member = Member("t", "g", 0.0, total.s(), None)
    with caplog.at_level(logging.INFO):
        assert chord_counting.count(counting, member, "SUCCESS", 2, "token") is Turn.OVER
    assert (
        "Task t does not complete the chord g: it has ended, or the number of its tasks is not known yet" in caplog.text
    )
    counting.result_store.begin_chord("g", 1)
    assert chord_counting.count(counting, member, "SUCCESS", 2, "token") is Turn.MINE
    assert [headers["argsrepr"] for headers in sent(counting)] == ["([2],)"]


def test_an_iterator_of_something_else_is_refused_where_it_is_given(add, total):
    for make in (group, lambda tasks: chord(tasks, total.s())):
        with pytest.raises(FrameworkError, match=r"write \.s"):
            make(add for _ in range(2))
        with pytest.raises(FrameworkError, match="must be a mapping"):
            make(iter([1, 2]))


def test_an_iterator_without_calls_is_an_empty_group(counting, add, total):
    app = counting
    assert group(iter([])).apply_async().results == []
    assert chain(add.s(1, 1), group(iter([])), add.s(1)).tasks == [add.s(1, 1), add.s(1)]
    chord(iter([]), total.s()).apply_async()
    chord(iter([chain(), group()]), total.s()).apply_async()
    assert [headers["argsrepr"] for headers in sent(app)] == ["([],)", "([],)"]


def test_the_error_of_an_iterator_reaches_the_caller(counting, add, total):
    def calls():
        for number in range(2_500):
            yield add.s(number, number)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        chord(calls(), total.s()).apply_async()
    assert waiting(counting) == 2_000


def test_eager_workflows_of_iterators(app, add, total):
    app.conf.update(task_always_eager=True)
    assert group(add.s(number, number) for number in range(3)).apply_async().get() == [0, 2, 4]
    assert chord((add.s(number, number) for number in range(3)), total.s()).apply_async().get() == 6
    assert add.apply_async((1, 1), link=group(add.s(number) for number in range(3))).get() == 2


# ---------------------------------------------------------------- empty steps


@pytest.mark.parametrize("how", ["apply_async", "apply"])
def test_an_empty_group_passes_arguments_on(app, add, how):
    app.conf.update(task_always_eager=True)
    for made in (chain(group(), add.s(10)), chain(group(), group(group()), add.s(10)), chain(chain(), add.s(10))):
        assert getattr(made, how)((5,)).get() == 15
        assert getattr(signature(json.loads(json.dumps(made))), how)((5,)).get() == 15


def test_a_chain_from_a_message_leaves_empty_groups_out(app, add):
    document = {"task": "celery.chain", "subtask_type": "chain", "kwargs": {"tasks": [group(), add.s(10), group()]}}
    assert signature(document).apply((5,)).get() == 15


@pytest.mark.parametrize(
    "make",
    [
        chain,
        lambda: chain([]),
        lambda: chain(chain(), chain()),
        lambda: chain(group(), group()),
        lambda: chain() | chain(),
    ],
)
def test_a_chain_without_tasks_sends_nothing(app, make):
    assert make().apply_async() is None
    assert make().delay() is None
    assert make()() is None
    assert make().apply() is None
    assert sent(app) == []


def test_empty_steps_are_left_out(add, total):
    pair = group(add.s(1, 1), add.s(2, 2))
    assert repr(chain(pair, group(), group())) == "add(1, 1), add(2, 2)"
    assert repr(pair | group()) == "add(1, 1), add(2, 2)"
    assert repr(pair | group() | total.s()) == "[add(1, 1), add(2, 2)] | total()"
    assert repr(pair | total.s() | group()) == "[add(1, 1), add(2, 2)] | total()"
    assert repr(chain(add.s(1, 1), group(chain(), group()), add.s(1))) == "add(1, 1) | add(1)"
    assert group(chain(), add.s(1, 1), group(chain())).freeze().results
    assert len(group(chain(), add.s(1, 1), group(chain())).freeze()) == 1
    assert chain(group()).freeze().results == []
    made = chord([chain(), group(chain()), chain(chain()), add.s(1, 1)], total.s())
    made.freeze()
    assert repr(made) == "[add(1, 1)] | total()"


def test_a_body_without_tasks_is_refused(app, add, tmp_path):
    app.conf.update(result_backend=f"sqlite:///{tmp_path}/results.db")
    with pytest.raises(FrameworkError, match="at least one task"):
        chord([add.s(1, 1)], chain()).apply_async()


@pytest.mark.parametrize("call", ["replace", "add_to_chord"])
def test_a_task_is_not_replaced_with_an_empty_chain(app, call):
    task = app.tasks["swap"]
    token = push_request(
        Context({"id": "t", "task": "swap", "group": "g"}, [], {}, {"chord": {"task": "b"}}, app=app, is_eager=True)
    )
    try:
        with pytest.raises(ImproperlyConfigured, match=r"Cannot (replace with|add) an empty chain.*: swap"):
            getattr(task, call)(chain())
    finally:
        pop_request(token)


def test_empty_callbacks_are_left_out(app, add):
    app.conf.update(task_always_eager=True)
    assert add.apply_async((1, 1), link=[chain(), group(), add.s(1)], link_error=chain()).get() == 2


# ---------------------------------------------------------------- stamps


def test_stamps_are_on_every_part(add, total):
    made = add.s(1, 1).set(link=add.s(5)) | group(add.s(1), add.s(2)) | total.s()
    made.stamp(monitor="abc")
    made.freeze()
    header = made.tasks[1]
    parts = [made, made.tasks[0], *listed(made.tasks[0], "link"), header, *header.tasks, header.body]
    assert [part.options["monitor"] for part in parts] == ["abc"] * 7
    assert all(part.options["stamped_headers"] == ["monitor"] for part in parts)


def listed(sig, name):
    return [Signature.from_dict(each) for each in sig.options[name]]


def test_a_visitor_stamps_each_part_as_it_likes(add, total):
    class Numbering(StampingVisitor):
        def __init__(self):
            self.seen = []

        def on_signature(self, sig, **headers):
            self.seen.append(sig.task)
            return {"number": len(self.seen), "note": "no stamp", "stamped_headers": ["number"]}

        def on_group_start(self, sig, **headers):
            return {"grouped": True}

        def on_chord_header_start(self, sig, **headers):
            return {"part": "header"}

        def on_chord_body(self, sig, **headers):
            return {"part": "body"}

    made = group(add.s(1, 1), chord([add.s(2, 2)], total.s()))
    made.stamp(Numbering())
    first, second = made.tasks
    assert (first.options["number"], first.options["grouped"], "note" in first.options) == (1, True, False)
    assert [second.tasks[0].options["part"], second.body.options["part"]] == ["header", "body"]


def test_stamps_are_replaced_or_gathered(add):
    made = add.s(1, 1)
    made.stamp(colour="red")
    made.stamp(colour="blue")
    assert made.options["colour"] == "blue"
    made.stamp(append_stamps=True, colour="red", size=3)
    assert (made.options["colour"], made.options["size"]) == (["blue", "red"], 3)
    assert made.options["stamped_headers"] == ["colour", "size"]


def test_stamps_travel_in_headers_and_stay_when_others_come(app, add):
    made = add.s(1, 1)
    made.stamp(colour="red")
    made.apply_async(stamped_headers=["colour", "size"], colour="blue", size=3)
    group(made, add.s(2, 2)).apply_async()
    single, first, second = sent(app)
    assert (single["stamped_headers"], single["stamps"]) == (["colour", "size"], {"colour": "red", "size": 3})
    assert (first["stamps"], second["stamps"]) == ({"colour": "red"}, {})


# ---------------------------------------------------------------- what the caller holds


def ids_of(made):
    return [one.task_id for one in frozen_tasks(made)]


MADE_OF_TWICE_THE_SAME = {
    "chain": lambda sig, total: chain(sig, sig),
    "group": lambda sig, total: group(sig, sig),
    "group of a list": lambda sig, total: group([sig, sig]),
    "group in a group": lambda sig, total: group(group(sig, sig), sig),
    "header": lambda sig, total: chord([sig, sig], total),
    "header that is a group": lambda sig, total: chord(group(sig, sig), total),
    "body": lambda sig, total: chord([sig, sig], sig),
    "called with a body": lambda sig, total: chord([sig]).clone(kwargs={"body": sig}),
    "after a chain": lambda sig, total: chain(sig, sig) | sig,
    "before a chain": lambda sig, total: sig | chain(sig, sig),
    "after a group": lambda sig, total: group(sig, sig) | sig | sig,
    "after a chord": lambda sig, total: chord([sig], sig) | sig,
    "group after a chain": lambda sig, total: chain(sig, group(sig, sig), sig),
    "chains in a group": lambda sig, total: group(chain(sig, sig), chain(sig, sig)),
    "signature of a signature": lambda sig, total: group(signature(sig), Signature(sig)),
    "documents": lambda sig, total: chain(dict(sig), dict(sig)),
}


@pytest.mark.parametrize("kind", MADE_OF_TWICE_THE_SAME)
def test_freezing_does_not_reach_what_a_workflow_was_made_of(kind, add, total):
    sig = add.s(5).set(queue="own")
    before = json.dumps(sig)
    made = MADE_OF_TWICE_THE_SAME[kind](sig, total.s())
    made.freeze()
    assert json.dumps(sig) == before
    ids = ids_of(made)
    assert len(ids) > 1
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("kind", MADE_OF_TWICE_THE_SAME)
def test_linking_does_not_reach_what_a_workflow_was_made_of(kind, app, add, total):
    sig = add.s(5)
    before = json.dumps(sig)
    app.conf.update(task_allow_error_cb_on_chord_header=True)
    made = MADE_OF_TWICE_THE_SAME[kind](sig, total.s())
    for each in made.tasks:
        each.link(total.s())
        each.set(queue="own")
    made.link(total.s())
    made.link_error(total.s())
    made.stamp(mark="red")
    assert json.dumps(sig) == before


def test_a_signature_of_a_signature_is_another(app, add):
    sig = add.s(5)
    for made in (signature(sig), signature(sig, app=app), Signature(sig)):
        assert made == sig
        made.freeze()
        made.link(add.s(1))
        made.set(queue="own")
    assert sig == add.s(5)


def test_a_group_of_a_frozen_list_has_ids_of_its_own(add):
    sigs = [add.s(1, 1), add.s(2, 2)]
    first, second = group(sigs).freeze(), group(sigs).freeze()
    assert not {each.id for each in first} & {each.id for each in second}
    assert sigs == [add.s(1, 1), add.s(2, 2)]


def test_what_a_workflow_holds_can_still_be_changed(add, total):
    made = chord([add.s(1, 1)], total.s())
    made.tasks[0].link(total.s())
    made.body.set(queue="own")
    assert made.tasks[0].options["link"] == [total.s()]
    assert made.body.options == {"queue": "own"}
