"""Where messages go, and what a worker consumes from."""

from __future__ import annotations

import re

import kombu
import pytest
from kombu.common import Broadcast as KombuBroadcast

from framework import App, Broadcast, Exchange, Queue, chain, xmap
from framework._config.settings import Settings, TaskSettings
from framework.client.routing import Router, consumed, known_as, select_queues
from framework.exceptions import ConfigError, QueueNotFound
from framework.wire.identity import shared_queue


def router(**task):
    return Router(Settings(task=TaskSettings(**task)))


def where(router, name="t", **options):
    address = router.address(router.route(name, (), {}, options))
    return address.exchange, address.routing_key


def test_a_direct_queue_is_reached_by_its_name_and_others_through_their_exchange():
    routes = router(queues=[Queue(name="logs", exchange=Exchange("media", "topic"), routing_key="media.#")])
    assert where(routes) == ("", "celery")
    assert where(routes, queue="made_up") == ("", "made_up")
    assert where(routes, queue="logs") == ("media", "media.#")
    assert where(routes, queue="logs", routing_key="media.a") == ("media", "media.a")
    assert where(routes, exchange="x", routing_key="k") == ("x", "k")


@pytest.mark.parametrize(
    "routes",
    [
        {"feed.*": {"queue": "feeds"}, "web.exact": "web"},
        [{"feed.*": "feeds"}, {"web.*": {"queue": "web"}}],
        [("feed.*", {"queue": "feeds"}), (re.compile(r"web\."), {"queue": "web"})],
        lambda name, args, kwargs, options, task=None, **kw: {"feed": "feeds", "web": "web"}.get(name.split(".")[0]),
    ],
)
def test_rules_of_every_kind(routes):
    rules = router(routes=routes)
    assert where(rules, "feed.get") == ("", "feeds")
    assert where(rules, "web.exact") == ("", "web")
    assert where(rules, "other") == ("", "celery")
    assert where(rules, "feed.get", queue="mine") == ("", "mine")


def test_definitions_of_every_kind():
    table = {"media": {"exchange": "m", "exchange_type": "topic", "routing_key": "m.*", "queue_arguments": {"x-a": 1}}}
    as_table = router(queues=table).queue_for("media")
    old = kombu.Queue("media", kombu.Exchange("m", "topic"), routing_key="m.*", queue_arguments={"x-a": 1})
    as_kombu = router(queues=[old]).queue_for("media")
    assert as_table.exchange == as_kombu.exchange == Exchange("m", "topic", arguments=as_kombu.exchange.arguments)
    assert (as_table.routing_key, as_table.queue_arguments) == (as_kombu.routing_key, as_kombu.queue_arguments)
    with pytest.raises(ConfigError, match=r"\[task.queues.media\] has no key 'exchnge'"):
        router(queues={"media": {"exchnge": "m"}})


def test_missing_queues_may_be_forbidden():
    rules = router(create_missing_queues=False, queues={"a": {}})
    with pytest.raises(QueueNotFound, match="defined are a, celery"):
        rules.queue_for("b")


@pytest.mark.acceptance(140)
def test_selecting_queues_as_the_worker_is_told():
    settings = Settings(task=TaskSettings(queues={"a": {}, "b": {}}))
    names = lambda *args: [queue.name for queue in select_queues(settings, *args)]  # noqa: E731 - reads better here
    assert names() == ["a", "b"]
    assert names(["b", "new"]) == ["b", "new"]
    assert names(None, ["a"]) == ["b"]
    settings.task.create_missing_queues = False
    with pytest.raises(
        QueueNotFound,
        match=re.escape(
            "Trying to select queue subset of ['b', 'x'], but queue 'x' isn't defined in the task_queues setting."
        ),
    ):
        names(["b", "x"])


def test_settings_shape_the_queues():
    rules = router(
        default_queue="q", queue_max_priority=7, default_queue_type="quorum", create_missing_queue_type="quorum"
    )
    assert rules.queue_for("q").max_priority == 7
    assert rules.queue_for("q").queue_arguments == {"x-queue-type": "quorum"}
    assert rules.queue_for("new").queue_arguments == {"x-queue-type": "quorum"}


@pytest.mark.parametrize(
    "queues",
    [
        [Broadcast("all")],
        [KombuBroadcast("all")],
        {"all": {"broadcast": True}},
        {"all": {"exchange": "all", "broadcast": True}},
    ],
)
def test_a_broadcast_queue_has_one_name_and_each_worker_a_queue(queues):
    settings = Settings(task=TaskSettings(queues=queues, default_queue_type="quorum"))
    address = Router(settings).address({"queue": "all"})
    assert (address.exchange, address.exchange_type) == ("all", "fanout")
    (one,), (two,) = ([consumed(queue) for queue in select_queues(settings, ["all"])] for _ in range(2))
    assert one.name != two.name
    assert known_as(one) == known_as(two) == shared_queue(one.name) == "all"
    assert (one.auto_delete, one.queue_arguments, one.routing_key) == (True, None, "celery")


def test_the_name_that_kombus_broadcast_was_given_is_kept():
    rules = router(queues=[KombuBroadcast("all", queue="mine")])
    assert rules.address({"queue": "all"}).exchange == "all"
    assert consumed(rules.queue_for("all")).name == "mine"


# ---------------------------------------------------------------- where a call goes


def test_a_routing_key_alone_goes_to_the_default_exchange():
    manual = router(
        default_queue="default",
        default_exchange="tasks",
        default_exchange_type="topic",
        default_routing_key="task.default",
        queues=[Queue(name="default", routing_key="task.#"), Queue(name="feeds", routing_key="feed.#")],
    )
    address = manual.address({"routing_key": "feed.import"})
    assert address[:3] == ("tasks", "feed.import", "topic")
    assert [queue.name for queue in address.declare] == ["default", "feeds"]
    assert {queue.exchange for queue in manual.queues.values()} == {Exchange("tasks", "topic")}
    direct = router(queues={"celery": {}, "gpu": {"routing_key": "gpu"}})
    assert where(direct, routing_key="gpu") == ("celery", "gpu")
    assert where(direct, queue="gpu", routing_key="other") == ("", "gpu")


@pytest.mark.parametrize("place", [{"queue": "q"}, {"exchange": "e", "exchange_type": "topic", "routing_key": "k"}])
def test_the_place_of_a_call_replaces_that_of_its_route(place):
    rules = router(routes={"t": place | {"priority": 3}}, queues={"e": {"exchange_type": "topic", "exchange": "e"}})
    assert where(rules, queue="urgent") == ("", "urgent")
    assert where(rules, exchange="x", routing_key="y") == ("x", "y")
    assert rules.route("t", (), {}, {"queue": "urgent"}) == {"queue": "urgent", "priority": 3}
    assert rules.address(rules.route("t", (), {}, {"exchange": "x", "routing_key": "y"})).exchange_type == "direct"


def test_the_place_of_a_call_replaces_that_of_its_task_and_its_signature():
    with App(broker="memory://places") as app:

        @app.task(name="placed", exchange="e", routing_key="k")
        def placed(): ...

        sent = []
        app.sender.send = lambda name, message, address, options: sent.append(address[:2])
        placed.apply_async(queue="urgent")
        placed.s().set(exchange="x", routing_key="y").apply_async(queue="urgent")
        placed.s().set(exchange="x", routing_key="y").set(queue="urgent").apply_async()
        placed.s().set(queue="urgent").apply_async(exchange="x", routing_key="y")
        assert sent == [("", "urgent")] * 3 + [("x", "y")]


@pytest.mark.parametrize(
    "routes",
    [
        ([("feed.*", {"queue": "feeds"}), ("web.*", "web")],),
        [[("feed.*", "feeds")], [("web.*", "web")]],
        [{"feed.*": "feeds"}, ("web.*", "web")],
    ],
)
def test_lists_of_pairs_in_a_list(routes):
    rules = router(routes=routes)
    assert [where(rules, name)[1] for name in ("feed.a", "web.a", "x")] == ["feeds", "web", "celery"]


def test_a_router_gets_the_task():
    asked = []

    def route(name, args, kwargs, options, task=None, **more):
        asked.append((name, task))

    with App(broker="memory://asked") as app:
        app.conf.update(task_routes=route)

        @app.task(name="known")
        def known(): ...

        known.delay()
        known.s().apply_async()
        app.send_many([known.s()])
        app.send_task("unknown")
        assert asked == [("known", known)] * 3 + [("unknown", None)]


def test_an_exchange_brings_the_queues_that_are_bound_to_it():
    rules = router(
        queues={
            "video": {"exchange": "media", "exchange_type": "topic", "routing_key": "video.#"},
            "one": {"exchange": "o"},
        }
    )
    address = rules.address({"exchange": "media", "routing_key": "video.a"})
    assert (address.exchange_type, [queue.name for queue in address.declare]) == ("topic", ["video"])
    assert where(rules, exchange="o") == ("o", "one")
    assert rules.address({"exchange": "other", "routing_key": "k"}).declare == ()


BAD = ["x" * 256, "ü" * 128, "a\0b", "a\nb", "\x7f", "a\u2028b", "\ud800"]


@pytest.mark.parametrize("option", ["queue", "exchange", "routing_key"])
@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_names_that_no_broker_can_have(option, name):
    with App(broker="memory://names") as app:
        with pytest.raises(ValueError, match="the name of the") as raised:
            app.send_task("t", **{option: name})
        assert "\n" not in str(raised.value)
        with pytest.raises(TypeError if option != "queue" else ConfigError):
            app.send_task("t", **{option: 5})
    with pytest.raises(ConfigError, match="the name of the"):
        router(queues=[{"name": "q", "exchange": "e", "routing_key": "k", {"queue": "name"}.get(option, option): name}])


def test_an_empty_name_of_a_queue():
    for options in ({"queue": ""}, {"queue": Queue(name="")}):
        with pytest.raises(ValueError, match="the name of the queue is empty"):
            router().address(options)
    rules = router(routes={"t": ""})
    with pytest.raises(ValueError, match="the name of the queue is empty"):
        rules.address(rules.route("t", (), {}, {}))
    for settings in ({"queues": {"": {}}}, {"default_queue": ""}):
        with pytest.raises(ConfigError, match="the name of the queue is empty"):
            router(**settings)
    with pytest.raises(ConfigError, match="255"):
        select_queues(Settings(task=TaskSettings()), ["x" * 300])
    with pytest.raises(ConfigError, match="255"):
        router(queues=[Broadcast("x" * 250)])


def test_the_place_of_a_workflow_replaces_that_of_its_parts():
    with App(broker="memory://workflows") as app:

        @app.task(name="part", exchange="e", routing_key="k")
        def part(*args): ...

        sent = []
        app.sender.send = lambda name, message, address, options: sent.append(address[:2])
        chain(part.s(), part.s()).apply_async(queue="urgent")
        xmap(part.s(), [1], app=app, queue="urgent").apply_async()
        xmap(part.s(), [1], app=app).apply_async(queue="urgent")
        assert sent == [("", "urgent")] * 3
