"""Names of nodes and files."""

import socket

import pytest

from framework._config.nodename import file_path, node_name, per_process
from framework.exceptions import ConfigError

HOST = "george.example.com"


@pytest.mark.acceptance(7, 8, 9, 10, 11)
@pytest.mark.parametrize(
    ("template", "name"),
    [
        (None, "celery@george.example.com"),
        ("worker1.%h", "celery@worker1.george.example.com"),
        ("worker1.%n", "celery@worker1.george"),
        ("worker1.%d", "celery@worker1.example.com"),
        ("w1@%h", "w1@george.example.com"),
        ("w1@%n.%d", "w1@george.example.com"),
        ("w%i@%n%I", "w0@george"),
        ("foo%%h@x", "foo%h@x"),
        ("foo", "celery@foo"),
    ],
)
def test_node_names(template, name):
    assert node_name(template, HOST) == name


def test_the_host_is_this_machines():
    assert node_name() == f"celery@{socket.gethostname()}"


@pytest.mark.parametrize("template", ["w@%x", "w@h%", "w@%p"])
def test_an_unknown_variable_in_a_node_name(template):
    with pytest.raises(ConfigError, match=r"has the unknown variable %.?; known are %h %n %d %i %I %%"):
        node_name(template, HOST)


@pytest.mark.parametrize("template", ["w@%d", "@h", "a b@h", "a\x1b[2J@h", "a\x00@h", "a\u202e@h", "a\x9b@h"])
def test_a_name_that_is_none(template):
    with pytest.raises(ConfigError, match="wanted name@host, without blanks or control characters"):
        node_name(template, "george")


@pytest.mark.parametrize(
    ("template", "index", "path"),
    [
        ("%h.log", 0, "george.example.com.log"),
        ("%n.log", 0, "w1.log"),
        ("%d.log", 0, "example.com.log"),
        ("%p.log", 0, "w1@george.example.com.log"),
        ("%n-%i.log", 0, "w1-0.log"),
        ("%n-%i.log", 3, "w1-3.log"),
        ("%n%I.log", 0, "w1.log"),
        ("%n%I.log", 3, "w1-3.log"),
        ("100%%.log", 0, "100%.log"),
    ],
)
def test_file_names(template, index, path):
    assert file_path(template, "w1@george.example.com", index) == path


def test_an_unknown_variable_in_a_file_name():
    with pytest.raises(ConfigError, match=r"the file name '%x\.log' has the unknown variable %x"):
        file_path("%x.log", "w1@h")


@pytest.mark.parametrize(("template", "answer"), [("%n%I.log", True), ("%i", True), ("%n.log", False), ("%%i", False)])
def test_files_of_every_process(template, answer):
    assert per_process(template) is answer


@pytest.mark.parametrize(
    ("template", "node", "path"),
    [
        ("logs/%n.log", "../../etc/x@h", "logs/.._.._etc_x.log"),
        ("logs/%p.log", "w@../h", "logs/w@.._h.log"),
        ("logs/%n/x.log", "..@h", "logs/__/x.log"),
        ("logs/%h/x.log", "w@.", "logs/_/x.log"),
        ("%d/x.log", "w@h.../x", ".._x/x.log"),
    ],
)
def test_a_node_name_leads_to_no_other_directory(template, node, path):
    assert file_path(template, node) == path
