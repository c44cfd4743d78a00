"""Shared tasks in a process without an application: tools may look at them."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
import textwrap
from unittest import mock

import pytest

from framework import App, current_app, shared_task
from framework.client import current
from framework.exceptions import FrameworkError


@pytest.fixture
def double(monkeypatch):
    """A shared task, while there is no application."""
    monkeypatch.setattr(current, "_made", [])
    monkeypatch.setattr(current, "_chosen", None)
    monkeypatch.setattr(current, "shared", [])

    def double(number: int) -> int:
        """Return twice `number`."""
        return 2 * number

    double.mark = "red"
    return shared_task(double)


def test_it_answers_as_its_function(double):
    function = double.__wrapped__
    assert hasattr(double, "__name__")
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__", "__code__", "__defaults__"):
        assert getattr(double, name) == getattr(function, name)
    assert double.mark == "red"
    assert inspect.signature(double) == inspect.signature(function)
    assert inspect.unwrap(double) is function
    assert not inspect.iscoroutinefunction(double)
    assert not inspect.isabstract(double)


def test_it_lacks_what_its_function_lacks(double):
    for name in ("pytestmark", "__wrapped_by__", "assert_called", "delay", "apply_async", "name"):
        assert not hasattr(double, name)
        assert getattr(double, name, None) is None
    assert not hasattr(current_app, "tasks")


def test_calling_it_says_what_is_missing(double):
    for call in (lambda: double.delay(1), lambda: double.s(1), lambda: double(1), lambda: current_app.tasks):
        with pytest.raises(FrameworkError, match="has no application: make one"):
            call()


def test_it_can_be_mocked_and_copied(double):
    assert mock.create_autospec(double, return_value=3)(1) == 3
    assert copy.copy(double).__wrapped__ is double.__wrapped__
    assert mock.Mock(wraps=double, spec=double).__class__ is type(double)


def test_with_an_application_it_is_its_task(double):
    app = App("proj", broker="memory://")
    assert double.app is app
    assert double.__name__ == "double"
    assert double.delay
    assert double(2) == 4
    app.close()


def test_pytest_and_doctest_read_a_module_of_shared_tasks(tmp_path):
    tmp_path.joinpath("test_shop.py").write_text(
        textwrap.dedent(
            '''
            from unittest import mock
            from framework import current_app, shared_task

            @shared_task
            def sample(): pass

            @shared_task
            def double(number):
                """Return twice `number`.

                >>> double.__wrapped__(2)
                4
                """
                return 2 * number

            def test_double():
                with mock.patch(__name__ + ".double", autospec=True) as patched:
                    patched(1)
                assert double.__name__ == "double"
            '''
        )
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--doctest-modules", "test_shop.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout
    assert "double" not in run.stdout
