"""The conformance suite of result stores: every promise of `framework.api.result_store` is a test.

In the plugin's own repository one class is enough::

    from framework.testing.result_stores import ResultStoreSuite

    class TestAcmeStore(ResultStoreSuite):
        result_store = "acme"
        url = "acme://localhost:1234/tests"

1. A store that has to be started first gives its address in a fixture: override `store_url`. One that answers through
   the broker is lent that in the fixture `lent`.
2. Ids are new in every test: the store need not be empty.
3. What the store's traits rule out is skipped, and the reason says which trait it was.
4. `keeping`, `waiting` and `chords` hold the tests by subject; `base` has what a suite may be told.
"""

from __future__ import annotations

from framework.testing.result_stores.base import Bench, ResultStoreSuiteBase, needs
from framework.testing.result_stores.chords import ChordPromises
from framework.testing.result_stores.keeping import KeepingPromises
from framework.testing.result_stores.waiting import WaitingPromises

__all__ = ["Bench", "ResultStoreSuite", "needs"]


class ResultStoreSuite(KeepingPromises, WaitingPromises, ChordPromises, ResultStoreSuiteBase):
    """Every promise of a result store. Subclass it, name the class ``Test…``, and set `result_store` and `url`."""
