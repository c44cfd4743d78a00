"""Bodies, results, errors and reprs: what goes out comes back, with Celery and kombu at the other end too."""

from __future__ import annotations

import bz2
import json
import lzma
import pickle
import sys
import threading
import uuid
import zlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pytest
from celery.backends.base import Backend
from celery.exceptions import TaskRevokedError as CeleryRevoked
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu.utils import json as kombu_json

from framework import exceptions
from framework.client.results._documents import result_of
from framework.exceptions import ContentRefused, MessageTooLarge, MessageUndecodable, UnknownError
from framework.message import Incoming
from framework.wire.exception_document import decode_exception, encode_exception
from framework.wire.result_document import Documents
from framework.wire.serialization import (
    COMPRESSED_MARK,
    decode,
    decode_result,
    decode_stored,
    decode_task,
    dumps,
    encode,
    loads,
    safe_repr,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.none() | st.just(UTC))
    | st.dates()
    | st.times()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_json_is_that_of_kombu_in_both_directions(value):
    assert json.loads(dumps(value)) == json.loads(kombu_json.dumps(value))
    assert loads(kombu_json.dumps(value)) == kombu_json.loads(dumps(value)) == loads(dumps(value))


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        date(2026, 1, 2),
        time(1, 2),
        Decimal("1.50"),
        uuid.uuid4(),
        b"x",
        b"\xff",
    ],
)
def test_a_typed_value_keeps_its_type(value):
    found = loads(dumps([value]))[0]
    assert found == value
    assert type(found) is type(value)


def test_a_tuple_becomes_a_list_and_json_methods_are_used():
    class Money:
        def __json__(self):
            return {"cents": 5}

    assert loads(dumps((1, (2, Money())))) == [1, [2, {"cents": 5}]]


def test_what_json_cannot_hold_is_a_type_error_with_a_remedy():
    with pytest.raises(TypeError, match="set cannot be encoded as JSON: send a list"):
        dumps({1, 2})


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff\xfe", b"", b"nonsense", b'{"__type__": "no such", "__value__": 1}',
     b'{"__type__": "uuid", "__value__": 3}',
     b'{"__type__": "base64", "__value__": "?"}', b'{"__type__": ["x"], "__value__": 1}'],
)  # fmt: skip
def test_bytes_that_are_no_json_are_undecodable(body):
    with pytest.raises(MessageUndecodable):
        decode(body)


@pytest.mark.parametrize(("open_", "close"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("levels", [1001, 10_000, 200_000])
def test_endless_nesting_is_too_large_and_nothing_worse(open_, close, levels):
    with pytest.raises(MessageTooLarge):
        decode((open_ * levels + "1" + close * levels).encode())


def test_brackets_in_strings_and_side_by_side_are_no_nesting():
    assert len(decode(json.dumps(["[" * 5000, '\\"[' * 500] + [[]] * 5000).encode())) == 5002


def test_encoding_a_value_that_contains_itself_is_an_error():
    loop = []
    loop.append(loop)
    with pytest.raises(MessageTooLarge):
        dumps(loop)


@pytest.mark.parametrize("name", ["gzip", "bzip2", "lzma"])
def test_compression_both_ways(name):
    content_type, content_encoding, body, mime = encode(["x" * 1000], "json", name)
    assert len(body) < 200
    assert decode(body, content_type, content_encoding, mime) == ["x" * 1000]


@pytest.mark.parametrize(
    ("mime", "pack"),
    [("application/x-gzip", zlib.compress), ("application/x-bz2", bz2.compress), ("application/x-lzma", lzma.compress)],
)
def test_a_body_that_swells_beyond_the_limit_is_refused_and_damage_is_undecodable(mime, pack):
    packed = pack(b'"' + b"0" * 5_000_000 + b'"')
    with pytest.raises(MessageTooLarge):
        decode(packed, compression=mime, max_size=1_000_000)
    with pytest.raises(MessageUndecodable):
        decode(packed[: len(packed) // 2], compression=mime)
    with pytest.raises(MessageUndecodable):
        decode(b"nonsense", compression=mime)


def test_an_encoded_body_beyond_the_limit_is_refused():
    with pytest.raises(MessageTooLarge, match="3 bytes"):
        decode(b"111", max_size=2)


def test_only_accepted_content_is_decoded():
    content_type, content_encoding, body, _ = encode([1, (2,)], "pickle")
    assert content_type == "application/x-python-serialize"
    with pytest.raises(ContentRefused, match="application/x-python-serialize"):
        decode(body, content_type, content_encoding, accept=["json"])
    assert decode(body, content_type, content_encoding, accept=["pickle"]) == [1, (2,)]
    assert decode(body, content_type, content_encoding, accept=["application/x-python-serialize"]) == [1, (2,)]


@pytest.mark.parametrize("serializer", ["yaml", "msgpack"])
def test_other_serializers_come_from_kombu(serializer):
    content_type, content_encoding, body, _ = encode({"a": [1]}, serializer)
    assert decode(body, content_type, content_encoding, accept=[serializer]) == {"a": [1]}


def incoming(body, headers, content_type="application/json"):
    return Incoming(headers, {}, content_type, "utf-8", body)


def test_a_protocol_2_call():
    body = dumps([[1], {"x": 2}, {"callbacks": [], "chain": None}])
    assert decode_task(incoming(body, {"task": "t", "id": "1"})) == ([1], {"x": 2}, {"callbacks": [], "chain": None})
    assert decode_task(incoming(b"[[1], {}, null]", {"task": "t", "id": "1"})) == ([1], {}, {})


def test_a_protocol_1_call_gets_the_headers_of_protocol_2():
    message = incoming(dumps({"task": "t", "id": "1", "args": [1], "retries": 2, "timelimit": [9, 8], "taskset": "g",
                              "callbacks": [{"task": "c"}]}), {"custom": 1})  # fmt: skip
    args, kwargs, embed = decode_task(message)
    assert (args, kwargs, embed["callbacks"]) == ([1], {}, [{"task": "c"}])
    for name, value in {"task": "t", "id": "1", "retries": 2, "timelimit": [9, 8], "group": "g", "custom": 1}.items():
        assert message.headers[name] == value
    assert message.headers["argsrepr"] == "(1,)"


def test_a_hybrid_call_is_overlaid_with_its_headers():
    message = incoming(dumps({"task": "old", "id": "1", "args": [1], "retries": 2}), {"task": "new", "id": "1"})
    assert decode_task(message)[0] == [1]
    assert message.headers["task"] == "new"
    assert message.headers["retries"] == 2


@pytest.mark.parametrize("body", [[], [1, 2], [[], [], {}], ["text", {}, {}], [[], {}, []], {"x": 1}, 5, None])
def test_a_body_of_another_shape_is_undecodable(body):
    with pytest.raises(MessageUndecodable):
        decode_task(incoming(dumps(body), {"task": "t", "id": "1"}))


# ---------------------------------------------------------------- errors


class Strange(Exception):
    def __init__(self, one, two):
        super().__init__(one)


@pytest.mark.parametrize(
    "error",
    [ValueError("boom", 1), KeyError("k"), exceptions.TaskRevokedError("expired"), exceptions.TimeLimitExceeded(5),
     exceptions.WorkerLostError("lost"), exceptions.NotRegistered("x"), UnicodeDecodeError("utf-8", b"x", 0, 1, "bad")],
)  # fmt: skip
def test_an_error_comes_back_as_what_it_was(error):
    found = decode_exception(loads(dumps(encode_exception(error))))
    assert type(found) is type(error)
    assert [repr(arg) for arg in found.args] == [repr(arg) for arg in error.args]


def test_celery_understands_our_errors_and_we_its(celery_client):
    backend = Backend(app=celery_client("memory://"))
    theirs = backend.exception_to_python(encode_exception(exceptions.TaskRevokedError("expired")))
    assert isinstance(theirs, CeleryRevoked)
    assert isinstance(backend.exception_to_python(encode_exception(ValueError("boom"))), ValueError)
    ours = decode_exception(backend.prepare_exception(CeleryRevoked("terminated"), "json"))
    assert isinstance(ours, exceptions.TaskRevokedError)
    assert ours.args == ("terminated",)


@pytest.mark.parametrize(
    "document",
    [
        {"exc_type": "system", "exc_module": "os", "exc_message": ["true"]},
        {"exc_type": "Popen", "exc_module": "subprocess", "exc_message": ["true"]},
        {"exc_type": "SystemExit", "exc_module": "builtins", "exc_message": [1]},
        {"exc_type": "KeyboardInterrupt", "exc_module": "builtins", "exc_message": []},
        {"exc_type": "ValueError", "exc_module": "no.such.module", "exc_message": ["x"]},
        {"exc_type": "wire_module", "exc_module": "celery.exceptions", "exc_message": ["x"]},
        {"exc_type": "eval", "exc_message": "1"},
        {"exc_type": 5, "exc_module": 6},
        "text",
        None,
    ],
)
def test_a_document_never_becomes_anything_but_an_error(document):
    assert isinstance(decode_exception(document), UnknownError)


@dataclass
class Point:
    x: int


class Coded(Exception):
    """Takes other arguments than it keeps."""

    def __init__(self, *, code, where=None):
        super().__init__(f"failed with {code}")
        self.code = code
        self.where = where


class Named(Exception):
    """Builds its message from its one argument."""

    def __init__(self, name="nobody"):
        super().__init__(f"no {name}")
        self.name = name


class Slotted(OSError):
    __slots__ = ("path",)

    def __init__(self, *, path):
        super().__init__(2, "not there")
        self.path = path


class Pooled(Exception):
    """As those of urllib3: an object that cannot be sent is an argument and shown by the text."""

    def __init__(self, pool, url, reason):
        self.pool, self.url, self.reason = pool, url, reason
        super().__init__(f"{pool}: {url}")

    def __reduce__(self):
        return self.__class__, (None, self.url, None)

    def __str__(self):
        return f"{self.pool.host} {self.url}"


def through(error, serializer):
    body = encode(encode_exception(error, serializer), serializer)[2]
    return decode_exception(decode_stored(body, serializer))


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
@pytest.mark.parametrize(
    "error", [Strange("one", "two"), Coded(code=5, where=["x", 1.5]), Named("Ann"), Slotted(path="/p")]
)
def test_an_error_whose_init_does_not_take_its_args_comes_back_whole(error, serializer):
    found = through(error, serializer)
    assert type(found) is type(error)
    assert (str(found), repr(found), found.args) == (str(error), repr(error), error.args)
    assert vars(found) == vars(error)
    if isinstance(error, Slotted):
        assert (found.path, found.errno, found.strerror) == ("/p", 2, "not there")


def test_notes_and_file_names_come_back():
    error = FileNotFoundError(2, "not there", "/etc/x")
    error.add_note("while it started")
    found = through(error, "json")
    assert (str(found), found.__notes__) == (str(error), ["while it started"])


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_a_class_that_misses_attributes_says_which(serializer):
    error = Pooled(threading.Lock(), "/x", Coded(code=7))
    found = through(error, serializer)
    assert isinstance(found, Pooled)
    assert type(found).__name__ == "Pooled"
    assert found.args == error.args
    assert str(found) == error.args[0]
    assert (found.url, type(found.reason), found.reason.code) == ("/x", Coded, 7)
    with pytest.raises(AttributeError, match=r"'pool' of this Pooled was not stored.*it was <unlocked"):
        _ = found.pool
    again = pickle.loads(pickle.dumps(found))
    assert (again.args, again.url) == (error.args, "/x")


def test_pickle_carries_an_error_whole():
    error = Coded(code={1: (2, 3)}, where=Point(1))
    found = through(error, "pickle")
    assert type(found) is Coded
    assert (found.code, found.where) == ({1: (2, 3)}, Point(1))
    assert through(ValueError({1}, KeyError("k")), "pickle").args[0] == {1}


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_a_group_comes_back_with_its_errors(serializer):
    found = through(ExceptionGroup("two", [Coded(code=5), ExceptionGroup("inner", [KeyError("k")])]), serializer)
    assert type(found) is ExceptionGroup
    assert (str(found), found.exceptions[0].code) == ("two (2 sub-exceptions)", 5)
    assert found.exceptions[1].exceptions[0].args == ("k",)


def test_an_attribute_that_is_too_large_is_missing():
    found = through(Coded(code=1, where="x" * 100_000), "json")
    assert isinstance(found, Coded)
    with pytest.raises(AttributeError, match=r"too large"):
        _ = found.where


def test_an_error_that_contains_itself_is_cut():
    error = Coded(code=1)
    error.where = error
    found = through(error, "json")
    assert found.where.where.code == 1


@pytest.mark.parametrize("name", ["__class__", "__dict__", "__traceback__", "args", "with_traceback"])
def test_attributes_of_a_document_change_no_class(name):
    found = decode_exception(
        {"exc_type": "Coded", "exc_module": __name__, "exc_message": ["x"], "exc_attributes": {name: ["y"], "code": 1}}
    )
    assert type(found) is Coded
    assert (found.args, found.code) == (("x",), 1)


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_a_returned_error_is_read_as_one(serializer):
    document = Documents(serializer).build("SUCCESS", Coded(code=5), "1")
    found = result_of(decode_result(document, serializer))
    assert type(found) is Coded
    assert (found.code, str(found)) == (5, "failed with 5")


def test_a_celery_client_reads_the_error_with_attributes(celery_client):
    backend = Backend(app=celery_client("memory://"))
    theirs = backend.exception_to_python(encode_exception(FileNotFoundError(2, "not there", "/etc/x")))
    assert type(theirs) is FileNotFoundError


def test_a_document_imports_nothing():
    assert "mailbox" not in sys.modules
    decode_exception({"exc_type": "Error", "exc_module": "mailbox", "exc_message": []})
    assert "mailbox" not in sys.modules


def test_arguments_that_json_cannot_hold_are_kept_as_their_repr():
    document = encode_exception(ValueError(object, {1}))
    assert document["exc_message"] == ["<class 'object'>", "{1}"]


def test_a_compressed_result_document_is_recognised():
    document = {"status": "SUCCESS", "result": 3}
    packed = COMPRESSED_MARK + b"application/x-gzip\x00" + zlib.compress(dumps(document))
    assert decode_result(packed) == decode_result(dumps(document)) == document
    with pytest.raises(MessageUndecodable):
        decode_result(b"[1]")


# ---------------------------------------------------------------- repr


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_a_repr_is_bounded_and_that_of_python_when_it_is_short(value):
    assert len(safe_repr(value, 100)) < 100 + 40
    if not isinstance(value, (list, dict)):
        assert safe_repr(value, 10_000) == repr(value)


def test_a_repr_is_cut_and_never_raises():
    class Bad:
        def __repr__(self):
            raise RuntimeError("no")

    loop = []
    loop.append(loop)
    assert safe_repr(("x" * 2000,)).endswith("...',)")
    assert safe_repr([[[[[1]]]]]) == "[[[[...]]]]"[: len(safe_repr([[[[[1]]]]]))]
    assert "RuntimeError" in safe_repr([Bad()])
    assert "..." in safe_repr(loop)
    assert "..." in safe_repr(list(range(100_000)))
