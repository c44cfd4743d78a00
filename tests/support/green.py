"""Runs pytest in an interpreter that a green library has patched: ``python -m support.green gevent <arguments>``."""

from __future__ import annotations

import os
import sys

from framework._boot.preload import preload

if __name__ == "__main__":
    os.environ["TEST_GREEN_POOL"] = sys.argv[1]
    preload(sys.argv[1], "fork")
    import pytest  # only now: everything must find the patched standard library

    # The project was imported before pytest, to patch; pytest would rather have come first.
    sys.exit(pytest.main(["-W", "ignore:Module already imported so cannot be rewritten", *sys.argv[2:]]))
