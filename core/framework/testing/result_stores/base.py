"""The common base of the tests of result stores.

1. `ResultStoreSuiteBase` has the attributes that an author may set, and the fixtures `store_url`, `lent` and `bench`.
2. `Bench` creates stores as workers and clients do, each as in a separate process, and closes them.
3. `needs` skips a test unless the store has a trait.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from framework._boot import loader
from framework.api.result_store import Record, ResultStore, ResultStoreContext, ResultStoreTraits

#: States of tasks that have ended.
READY = ("SUCCESS", "FAILURE", "REVOKED")


def needs(*traits: str) -> pytest.MarkDecorator:
    """Skip a test, with the reason, unless the store has all of `traits`."""
    return pytest.mark.needs_trait(*traits)


def is_ready(document: bytes) -> bool:
    """Return whether `document` belongs to a task that has ended."""
    return json.loads(document)["status"] in READY


class ResultStoreSuiteBase:
    """The attributes and fixtures of a suite. Set `result_store`, and set `url` or override `store_url`."""

    #: The store's name, as in the scheme of its URL, or its class.
    result_store: ClassVar[str | type[ResultStore]]
    #: URL of the store.
    url: ClassVar[str] = ""
    #: The store's options, as in its table of the config file.
    options: ClassVar[Mapping[str, Any]] = {}
    #: Seconds after which a test stops waiting.
    patience: ClassVar[float] = 20.0
    #: Number of results in the test with many results.
    many: ClassVar[int] = 2_000

    @pytest.fixture
    def store_url(self) -> str:
        """Return the URL of the store; override this fixture to start a store."""
        return self.url

    @pytest.fixture
    def lent(self) -> Mapping[str, Any]:
        """Return further fields of the `ResultStoreContext`: `producer` and `consumer` of a broker, `broker_url`."""
        return {}

    @pytest.fixture
    def bench(self, request: pytest.FixtureRequest, store_url: str, lent: Mapping[str, Any]) -> Iterator[Bench]:
        """Yield the bench of the test; its stores are closed at the end."""
        bench = Bench(self, store_url, lent)
        for marker in request.node.iter_markers("needs_trait"):
            for trait in marker.args:
                if not getattr(bench.traits, trait):
                    request.node.user_properties.append(("missing trait", trait))
                    pytest.skip(f"the result store {bench.name!r} does not have the trait {trait!r}")
        with bench.stores:
            yield bench


class Bench:
    """Creates stores and documents for one test."""

    def __init__(self, suite: ResultStoreSuiteBase, url: str, lent: Mapping[str, Any]) -> None:
        self.suite = suite
        self.url = url
        named = suite.result_store
        self.name = named if isinstance(named, str) else named.__name__
        self.kind: type[ResultStore] = loader.load("result_store", named) if isinstance(named, str) else named
        self.traits: ResultStoreTraits = self.kind.traits
        #: The reply queue of the test's client.
        self.oid = str(uuid4())
        self._lent = dict(lent)
        #: Closes all stores, the last first.
        self.stores = ExitStack()

    # ------------------------------------------------------------ stores

    def make(self, url: str | None = None, **context: Any) -> ResultStore:
        """Return a store with the lent fields and `context` in its `ResultStoreContext`."""
        options = loader.options("result_store", self.name, self.kind, self.suite.options)
        store = self.kind(self.url if url is None else url, options, ResultStoreContext(**{**self._lent, **context}))
        self.stores.callback(store.close)
        return store

    def worker(self, **context: Any) -> ResultStore:
        """Return a store as a worker creates it."""
        return self.make(**{"consumer": None, **context})

    def client(self, ids: Iterable[str] = (), oid: str | None = None) -> ResultStore:
        """Return a store as a client creates it to wait for `ids`."""
        store = self.make(oid=oid or self.oid)
        store.prepare(list(ids))
        return store

    # ------------------------------------------------------------ documents

    @staticmethod
    def ids(count: int) -> list[str]:
        """Return `count` new ids."""
        return [str(uuid4()) for _ in range(count)]

    def record(self, task_id: str, state: str = "SUCCESS", result: object = None, oid: str | None = None) -> Record:
        """Return a record for a task of the test's client, or of the client `oid`."""
        document = {"status": state, "result": result, "traceback": None, "children": [], "task_id": task_id}
        return Record(
            task_id=task_id,
            document=json.dumps(document).encode(),
            state=state,
            reply_to=oid or self.oid,
            correlation_id=task_id,
        )

    def wait(self, store: ResultStore, ids: Iterable[str], timeout: float | None = None) -> dict[str, bytes]:
        """Return the documents that `store` yields for `ids`; fail if it yields one twice."""
        found: dict[str, bytes] = {}
        for task_id, document in store.wait(ids, self.suite.patience if timeout is None else timeout, is_ready):
            assert task_id not in found, f"{task_id} was yielded twice"
            found[task_id] = document
        return found


def documents(records: Iterable[Record]) -> dict[str, bytes]:
    """Return the documents of `records` by id."""
    return {record.task_id: record.document for record in records}
