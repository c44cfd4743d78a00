"""The conformance suite of result stores: every promise of `framework.api.result_store` is a test.

In the plugin's own repository one class is enough::

    from framework.testing.result_stores import ResultStoreSuite

    class TestAcmeStore(ResultStoreSuite):
        result_store = "acme"
        url = "acme://localhost:1234/tests"

1. To start a store first, override the fixture `store_url`. A store that sends results through the broker gets the
   broker from the fixture `lent`.
2. Every test uses new ids, so the store need not be empty.
3. Skips tests that need a trait which the store does not have; the reason names the trait.
4. `keeping`, `waiting` and `chords` hold the tests by subject; `base` holds the attributes of a suite.
"""

from __future__ import annotations

from framework.testing.result_stores.base import Bench, ResultStoreSuiteBase, needs
from framework.testing.result_stores.chords import ChordPromises
from framework.testing.result_stores.keeping import KeepingPromises
from framework.testing.result_stores.waiting import WaitingPromises

__all__ = ["Bench", "ResultStoreSuite", "needs"]


class ResultStoreSuite(KeepingPromises, WaitingPromises, ChordPromises, ResultStoreSuiteBase):
    """Tests every promise of a result store. Subclass it, name the class ``Test…``, set `result_store` and `url`."""
