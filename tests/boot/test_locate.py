"""Finding the application."""

import marshal
import os
import sys

import msgspec
import pytest

from framework import App
from framework._config import sources
from framework.client.locate import find_app, home_of, import_modules, load_app
from framework.exceptions import AppNotFound

APP = "from framework import App\n{name} = App({name!r})\n"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty current directory; `write` puts modules into it, which are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / (name.replace("____", "/__") + ("__.py" if "____" in name else ".py"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    yield write
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]
    sources.install(None)


@pytest.mark.parametrize(
    ("files", "target", "found"),
    [
        ({"loc1": APP.format(name="app")}, "loc1", "loc1:app"),
        ({"loc2": APP.format(name="celery")}, "loc2", "loc2:celery"),
        ({"loc3": APP.format(name="other")}, "loc3", "loc3:other"),
        ({"loc4": APP.format(name="a") + APP.format(name="b")}, "loc4:b", "loc4:b"),
        ({"loc5": APP.format(name="other") + APP.format(name="app")}, "loc5", "loc5:app"),
        ({"loc6": APP.format(name="app")}, "loc6.py", "loc6:app"),
        ({"loc7": APP.format(name="app") + "class inner:\n    deep = app\n"}, "loc7:inner.deep", "loc7:inner.deep"),
    ],
)
def test_an_application_is_found(project, files, target, found):
    directory = project(**files)
    located = find_app(target)
    assert located.target == found
    assert located.path == (str(directory),)
    assert isinstance(located.app, App)


@pytest.mark.parametrize("submodule", ["celery", "app"])
def test_a_package_may_keep_it_in_a_submodule(project, submodule):
    name = f"locpkg_{submodule}"
    directory = project()
    (directory / name).mkdir()
    (directory / name / "__init__.py").write_text("")
    (directory / name / f"{submodule}.py").write_text(APP.format(name="app"))
    assert find_app(name).target == f"{name}.{submodule}:app"


def test_without_a_target_the_setting_says_it(project):
    project(loc8=APP.format(name="app"))
    assert find_app(None, "loc8").target == "loc8:app"


@pytest.mark.parametrize("name", ["app", "tasks"])
def test_without_anything_the_directory_says_it(project, name):
    sys.modules.pop(name, None)
    project(**{name: APP.format(name="app")})
    assert find_app(None).target == f"{name}:app"


def test_the_directory_comes_first_on_the_path(project):
    directory = project(loc9=APP.format(name="app"))
    find_app("loc9")
    assert sys.path[0] == str(directory)


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("files", "target", "text"),
    [
        ({}, None, "no application: give -A module, or write app = "),
        ({}, "no such", "'no such' does not name an application; give module or module:attribute"),
        ({"locproj": ""}, "locprj", "there is no module locprj in "),
        ({"locproj": ""}, "locprj", "did you mean locproj?"),
        ({"loca": ""}, "loca.sub", "there is no module loca.sub"),
        ({"locb": "x = 1"}, "locb", "the module locb (locb.py) has no App; write `app = App('locb')` in it"),
        (
            {"locc": APP.format(name="a") + APP.format(name="b")},
            "locc",
            "has several Apps (a, b); choose one with -A locc:a",
        ),
        ({"locd": APP.format(name="main")}, "locd:man", "has no attribute man; did you mean main?"),
        ({"loce": "x = 1"}, "loce:x", "loce:x is of type int, not an App"),
        (
            {"locf": "\n\nimport nosuchlib\n"},
            "locf",
            "cannot import locf: ModuleNotFoundError: No module named 'nosuchlib' (locf.py, line 3)",
        ),
        ({"locg": "def f(:\n"}, "locg", "cannot import locg: SyntaxError: invalid syntax (locg.py, line 1)"),
        ({"loch": "\nint('x')\n"}, "loch", "cannot import loch: ValueError: invalid literal"),
        (
            {"loci": "import locj\n", "locj": "\n\n1 / 0\n"},
            "loci",
            "ZeroDivisionError: division by zero (locj.py, line 3)",
        ),
        ({"lock": "import json\njson.loads('')\n"}, "lock", "(lock.py, line 2)"),
        (
            {"locl": "from celery import Celery\napp = Celery()\n"},
            "locl:app",
            "is a Celery app (import App from framework instead)",
        ),
    ],
)
def test_a_mistake_is_one_sentence(project, files, target, text):
    project(**files)
    with pytest.raises(AppNotFound) as caught:
        find_app(target)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- other processes, other modules


def test_another_process_is_given_the_sources_and_has_its_own_code(project):
    code = "def route(name, args, kwargs, options, task=None):\n    return None\napp.conf.task_routes = [route]\n"
    directory = project(locm2=APP.format(name="app") + code)
    found = sources.load(environ={}, flags={"worker_concurrency": ("-c", "7")})
    app = load_app("locm2:app", [str(directory)], marshal.loads(marshal.dumps(msgspec.to_builtins(found))))
    assert app.conf.worker_concurrency == 7
    assert app.conf.task_routes == [sys.modules["locm2"].route]


def test_imports_and_include_are_imported(project):
    project(
        locn=APP.format(name="app") + "app.conf.imports = ['loco']\napp.conf.include = ['locp']\n", loco="", locp=""
    )
    import_modules(find_app("locn").app)
    assert {"loco", "locp"} <= set(sys.modules)


def test_a_module_of_include_that_does_not_exist(project):
    project(locq=APP.format(name="app") + "app.conf.include = ['locnope']\n")
    with pytest.raises(AppNotFound, match="there is no module locnope"):
        import_modules(find_app("locq").app)


def test_the_home_of_a_package_is_found_without_importing_it(project):
    directory = project(locr____init="1 / 0", locs="1 / 0")
    sys.path.insert(0, str(directory))
    assert home_of("locr.sub:app")[0] == os.path.join(str(directory), "locr")
    assert home_of("locs") == [str(directory)]
    assert home_of(None) == home_of("locnope") == home_of("..") == []
