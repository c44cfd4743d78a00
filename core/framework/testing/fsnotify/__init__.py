"""The conformance suite of file watchers: every promise of `framework.api.fsnotify` is a test.

In the plugin's own repository one class is enough::

    from framework.testing.fsnotify import FsnotifySuite

    class TestAcmeWatcher(FsnotifySuite):
        fsnotify = "acme"

1. Changes real files in a temporary directory in every way in which editors and deployments do.
2. Skips the tests, with the watcher's reason, on a system on which the watcher does not work.
3. `changes` and `life` hold the tests by subject; `base` holds the attributes of a suite and the fixtures.
"""

from __future__ import annotations

from framework.testing.fsnotify.base import Bench, FsnotifySuiteBase
from framework.testing.fsnotify.changes import ChangePromises
from framework.testing.fsnotify.life import LifePromises

__all__ = ["Bench", "FsnotifySuite"]


class FsnotifySuite(ChangePromises, LifePromises, FsnotifySuiteBase):
    """Tests every promise of a file watcher. Subclass it, name the class ``Test…``, and set `fsnotify`."""
