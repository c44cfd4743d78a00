"""Settings that are accepted and change nothing: each comes in by every way, keeps its type, and reaches no code."""

import json

import pytest

from framework._config.conf import Conf
from framework._config.options import options, tables
from framework._config.settings import Settings
from framework._config.show import json_schema
from framework._config.sources import Sources, load, resolve
from framework.exceptions import ConfigError

UNUSED = [option for option in options().values() if option.unused]
each_unused = pytest.mark.parametrize("option", UNUSED, ids=lambda option: option.name)


def sample(option):
    """A value of the option's type that is not its default."""
    if isinstance(option.default, bool):
        return not option.default
    if isinstance(option.default, str):
        return "default" if option.key == "optimization" else "other"
    return "other" if option.key in ("timer", "consumer", "agent") else 7


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Load a configuration file, or one without a line."""
    monkeypatch.chdir(tmp_path)

    def read(text="", **more):
        (tmp_path / "framework.toml").write_text(text)
        return load(**{"environ": {}, **more})

    return read


@each_unused
def test_no_struct_has_a_field_for_it(option):
    struct = tables()[option.table] if option.table else Settings
    assert option.key not in struct.__struct_fields__
    assert option.help.startswith("Kept for old configurations")


@each_unused
def test_a_file_may_set_it(option, read):
    line = f"{option.key} = {json.dumps(sample(option))}\n"
    config = resolve(read(f"[{option.table}]\n{line}" if option.table else line))
    assert config.value(option) == sample(option)
    assert config.origin(option.name).layer == "file"


@each_unused
def test_the_environment_and_a_flag_may_set_it(option, read):
    text = str(sample(option)).lower()
    config = resolve(read(environ={option.variable: text}))
    assert (config.value(option), config.origin(option.name).layer) == (sample(option), "environment")
    config = resolve(read(flags={option.name: (f"{option.name}={text}", text)}))
    assert (config.value(option), config.origin(option.name).layer) == (sample(option), "flag")


@each_unused
def test_app_conf_keeps_it(option):
    conf = Conf()
    assert conf[option.name] == option.default
    conf[f"CELERY_{option.name.upper()}"] = sample(option)
    assert conf[option.name] == sample(option)


@each_unused
def test_a_wrong_type_is_refused(option):
    with pytest.raises(ConfigError, match=option.key):
        Conf()[option.name] = ["wrong"]


@each_unused
def test_the_schema_knows_its_default(option):
    struct = tables()[option.table] if option.table else Settings
    assert json_schema()["$defs"][struct.__name__]["properties"][option.key]["default"] == option.default


def test_an_upper_layer_wins(read):
    found = read("[broker]\npool_limit = 3\n", environ={"FRAMEWORK_BROKER_POOL_LIMIT": "4"})
    assert resolve(found).value(options()["broker_pool_limit"]) == 4
    assert resolve(Sources()).value(options()["broker_pool_limit"]) == 10


def test_a_node_may_set_it(read):
    assert read("[nodes.w1]\npool_putlocks = false\n").file["nodes"].value == {"w1": {"pool_putlocks": False}}
    with pytest.raises(ConfigError, match="pool_putlocks is 3; wanted true or false"):
        read("[nodes.w1]\npool_putlocks = 3\n")
