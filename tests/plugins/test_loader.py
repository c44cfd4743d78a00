from __future__ import annotations

import subprocess
import sys

import pytest

from framework import App
from framework._boot import catalog, loader
from framework.exceptions import ConfigError, PluginConflict, PluginInvalid, PluginNotFound, PluginUnavailable

GOOD_STORE = """
    import msgspec
    from framework.api.result_store import ResultStore

    class Options(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
        depth: int = 3

    class Store(ResultStore):
        options_type = Options
        display_url = "acme://"
        def store(self, records): ...
        def fetch(self, task_ids): return {}
        def wait(self, task_ids, timeout, is_ready, on_interval=None): return iter(())
        def forget(self, task_ids): ...
"""


def test_listing_imports_nothing(site):
    site.distribution("acme", {"framework.results": {"acme": "acme_store:Store"}}, {"acme_store": "raise SystemExit"})
    assert [str(info) for info in catalog.find("result_store", "acme")] == ["result_store 'acme' of acme 1.0"]
    assert "acme_store" not in sys.modules


def test_a_stranger_comes_in_through_the_same_door_as_the_built_ins(site):
    site.distribution("acme", {"framework.results": {"acme": "acme_store:Store"}}, {"acme_store": GOOD_STORE})
    assert loader.load("result_store", "acme").__name__ == "Store"
    assert {info.name for info in catalog.plugins("pool")} >= {"prefork", "solo", "threads"}


def test_only_the_chosen_one_is_imported(site):
    site.distribution(
        "acme",
        {"framework.results": {"acme": "acme_store:Store", "bad": "acme_bad:Store"}},
        {"acme_store": GOOD_STORE, "acme_bad": "raise RuntimeError"},
    )
    loader.load("result_store", "acme")
    assert "acme_bad" not in sys.modules


def test_an_unknown_name_suggests_a_close_one():
    with pytest.raises(PluginNotFound, match=r"no pool named 'perfork' is installed; did you mean 'prefork'\?"):
        loader.load("pool", "perfork")


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(PluginNotFound, match=r"installed: .*prefork.*; chosen by --pool"):
        loader.load("pool", "zzzzzz")


def test_a_duplicate_names_both_distributions(site):
    for name in ("acme", "rival"):
        site.distribution(name, {"framework.results": {"twin": f"{name}_twin:Store"}})
    with pytest.raises(PluginConflict, match=r"acme 1\.0 \(acme_twin:Store\) and rival 1\.0 .*uninstall one"):
        loader.load("result_store", "twin")


def test_a_missing_library_names_the_extra_that_brings_it(site):
    site.distribution(
        "acme",
        {"framework.results": {"acme": "acme_store:Store"}},
        {"acme_store": "import nosuchlib"},
        requires=['nosuchlib>=2; extra == "fast"'],
    )
    with pytest.raises(
        PluginUnavailable, match=r"'acme' of acme 1\.0 needs the module 'nosuchlib'.*pip install 'acme\[fast\]'"
    ):
        loader.load("result_store", "acme")


def test_a_missing_library_without_an_extra_is_named(site):
    site.distribution("acme", {"framework.results": {"acme": "acme_store:Store"}}, {"acme_store": "import nosuchlib"})
    with pytest.raises(PluginUnavailable, match="pip install nosuchlib"):
        loader.load("result_store", "acme")


def test_an_import_that_raises_is_named(site):
    site.distribution("acme", {"framework.results": {"acme": "acme_store:Store"}}, {"acme_store": "1 / 0"})
    with pytest.raises(PluginInvalid, match=r"acme 1\.0 cannot be imported from acme_store:Store: ZeroDivisionError"):
        loader.load("result_store", "acme")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Store = 42", r"must be a subclass of framework\.api\.result_store\.ResultStore, but is 42"),
        (
            "from framework.api.result_store import ResultStore\nclass Store(ResultStore): ...",
            "must implement display_url, fetch, forget, store, wait",
        ),
        (
            GOOD_STORE + "\n        api_version = 99",
            "was written for version 99 of the plugin API, and this is version 1",
        ),
        (GOOD_STORE + "\n        options_type = dict", r"must have an options_type that is a msgspec\.Struct"),
        (GOOD_STORE + "\n        traits = None", "must declare its traits"),
    ],
)
def test_the_contract_is_checked_on_loading(site, source, text):
    site.distribution("acme", {"framework.results": {"acme": "acme_store:Store"}}, {"acme_store": source})
    with pytest.raises(PluginInvalid, match=text) as caught:
        loader.load("result_store", "acme")
    assert "acme 1.0" in str(caught.value)
    assert "acme_store:Store" in str(caught.value)


def test_options_are_typed_and_unknown_ones_refused(site):
    site.distribution("acme", {"framework.results": {"acme": "acme_store:Store"}}, {"acme_store": GOOD_STORE})
    plugin = loader.load("result_store", "acme")
    assert loader.options("result_store", "acme", plugin, {"depth": 5}).depth == 5
    with pytest.raises(ConfigError, match=r"\[result_store\.acme\].*no option 'dept'; did you mean 'depth'\?"):
        loader.options("result_store", "acme", plugin, {"dept": 5})
    with pytest.raises(ConfigError, match=r"\[result_store\.acme\]: Expected `int`, got `str`"):
        loader.options("result_store", "acme", plugin, {"depth": "deep"})


def test_a_scheme_that_kombu_knows_goes_to_its_plugin():
    assert loader.transport_name("filesystem://") == "kombu"
    assert loader.transport_name("redis://x") == "redis"
    with pytest.raises(PluginNotFound, match="no transport named 'rediz' is installed; did you mean 'redis'"):
        loader.load("transport", loader.transport_name("rediz://"))


ANY_BROKER = """
    from framework_transports.memory import MemoryTransport

    class AnyBroker(MemoryTransport):
        options_table = "anything"
        @classmethod
        def accepts(cls, scheme):
            return scheme.startswith("acme-")
"""


def test_a_transport_takes_schemes_that_are_no_names(site):
    site.distribution(
        "acme",
        {"framework.transports": {"any": "acme_any:AnyBroker", "worse": "acme_worse:AnyBroker"}},
        {"acme_any": ANY_BROKER, "acme_worse": "import nosuchlib"},
    )
    assert loader.transport_name("acme-7://x") == "any"
    assert loader.transport_name("acme7://x") == "acme7"
    assert loader.transport_name("filesystem://") == "kombu"


def test_nobody_is_asked_about_a_scheme_that_is_a_name(site):
    site.distribution("acme", {"framework.transports": {"any": "acme_any:AnyBroker"}}, {"acme_any": ANY_BROKER})
    assert loader.transport_name("redis://x") == "redis"
    assert "acme_any" not in sys.modules


def test_names_of_one_plugin_may_share_a_table(site):
    site.distribution("acme", {"framework.transports": {"any": "acme_any:AnyBroker"}}, {"acme_any": ANY_BROKER})
    settings = App(set_as_current=False).conf.settings
    settings.transport = {"anything": {"nonsense": 1}, "any": {}}
    with pytest.raises(ConfigError, match=r"\[transport\.anything\].*no option 'nonsense'"):
        loader.make_transport(settings, "any://")


def test_a_url_without_a_scheme_shows_no_password():
    with pytest.raises(ConfigError) as caught:
        loader.scheme_of("user:secret@host")
    assert "secret" not in str(caught.value)


LOAD = "import sys; from framework._boot import loader; print(loader.load(sys.argv[1], sys.argv[2]).__name__)"


@pytest.mark.parametrize("info", catalog.plugins(), ids=str)
def test_every_built_in_keeps_its_contract(info):
    if info.name in ("gevent", "eventlet"):
        # In a process of its own: once imported, eventlet has a word to say about every fork of this one.
        command = [sys.executable, "-c", LOAD, info.family, info.name]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().endswith("Pool")
    else:
        assert loader.load(info.family, info.name)
