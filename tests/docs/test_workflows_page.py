"""The examples of the page on workflows run, and come to what it says."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from ast import literal_eval
from pathlib import Path

from framework import exceptions

PAGE = Path(__file__).parent.parent.parent / "docs" / "workflows.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: An expression, and the value or the exception that it comes to.
CLAIM = re.compile(r"^(\S.*?)  # ([\[\d].*|[A-Z]\w+Error)$")


def test_examples_come_to_what_the_page_says(tmp_path, monkeypatch, start_worker):
    module, *examples = BLOCK.findall(PAGE.read_text())
    (tmp_path / "shop.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/shop.db"
    worker = start_worker("-P", "threads", "-c", "2", broker=url, backend=url, app="shop", app_dir=tmp_path)
    spec = importlib.util.spec_from_file_location("shop", tmp_path / "shop.py")
    assert spec is not None
    assert spec.loader is not None
    shop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shop)
    claims = 0
    with contextlib.closing(shop.app):
        names = dict(vars(shop))
        for example in examples:
            for line in example.splitlines():
                if claim := CLAIM.match(line):
                    claims += 1
                    check(eval(claim[1], names), claim[2], worker)
                else:
                    exec(line, names)
    assert claims >= 15


def check(value, claim, worker):
    if claim.endswith("Error"):
        assert type(value) is getattr(exceptions, claim), worker.output[-2000:]
    else:
        assert value == literal_eval(claim), worker.output[-2000:]
