"""Code that takes and releases a lock of its process, for tests of limits that strike while a lock is held.

`LOCKS` names a function for each kind of lock. While it has the lock it gives way to other threads and greenlets.
"""

from __future__ import annotations

import importlib
import io
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

_MODULE: Final = "framework_testing_imported"


class _Stream(io.StringIO):
    def write(self, text: str) -> int:
        time.sleep(0)
        return len(text)


_logger = logging.Logger("framework.testing.locks")
_logger.addHandler(logging.StreamHandler(_Stream()))
_queue: queue.Queue[int] = queue.Queue()
_lock = threading.Lock()
_condition = threading.Condition()


def _log() -> None:
    _logger.warning("busy")


def _put() -> None:
    _queue.put(1)
    time.sleep(0)
    _queue.get()


class _Importer:
    """Finds and executes the module `_MODULE`, which is no file: an interrupted import would leave that open."""

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        return ModuleSpec(name, _Importer()) if name == _MODULE else None  # type: ignore[arg-type]

    def create_module(self, _spec: ModuleSpec) -> None:
        pass

    def exec_module(self, _module: ModuleType) -> None:
        time.sleep(0)


def _import() -> None:
    if _Importer not in sys.meta_path:
        sys.meta_path.append(_Importer)
    importlib.import_module(_MODULE)
    sys.modules.pop(_MODULE, None)


def _take() -> None:
    _lock.acquire()
    try:
        time.sleep(0)
    finally:
        _lock.release()


def _notify() -> None:
    with _condition:
        time.sleep(0)
        _condition.notify_all()


LOCKS: Final[Mapping[str, Callable[[], None]]] = {
    "log": _log,
    "queue": _put,
    "import": _import,
    "lock": _take,
    "condition": _notify,
}
