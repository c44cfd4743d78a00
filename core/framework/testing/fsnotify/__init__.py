"""The conformance suite of file watchers: every promise of `framework.api.fsnotify` is a test.

In the plugin's own repository one class is enough::

    from framework.testing.fsnotify import FsnotifySuite

    class TestAcmeWatcher(FsnotifySuite):
        fsnotify = "acme"

1. Real files in a directory of the test's own are changed in every way in which editors and deployments change them.
2. On a system on which the watcher does not work its tests are skipped, with its own reason.
3. `changes` and `life` hold the tests by subject; `base` has what a suite may be told.
"""

from __future__ import annotations

from framework.testing.fsnotify.base import Bench, FsnotifySuiteBase
from framework.testing.fsnotify.changes import ChangePromises
from framework.testing.fsnotify.life import LifePromises

__all__ = ["Bench", "FsnotifySuite"]


class FsnotifySuite(ChangePromises, LifePromises, FsnotifySuiteBase):
    """Every promise of a file watcher. Subclass it, name the class ``Test…``, and set `fsnotify`."""
