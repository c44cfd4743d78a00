from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from framework._boot import catalog


class Site:
    """A directory of installed distributions, as `pip` leaves them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def distribution(self, name, entry_points, modules=None, version="1.0", requires=()):
        info = self.path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        metadata += "".join(f"Requires-Dist: {line}\n" for line in requires)
        (info / "METADATA").write_text(metadata)
        groups = "".join(
            f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
            for group, entries in entry_points.items()
        )
        (info / "entry_points.txt").write_text(groups)
        for module, source in (modules or {}).items():
            (self.path / f"{module}.py").write_text(textwrap.dedent(source))
        catalog.refresh()


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        del sys.modules[name]
    monkeypatch.undo()
    catalog.refresh()
