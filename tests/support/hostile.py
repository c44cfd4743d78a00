"""Messages that somebody made to break a worker: hypothesis puts them together, the same ones for the same number.

1. Every field of a sound task message is there, missing, or replaced by something that it must not be.
2. `messages` returns envelopes as bytes, as they lie in a Redis list.
"""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

HUGE = 10**400
BOMB = gzip.compress(b"[" + b"0," * 4_000_000 + b"0]")
DEEP: list[Any] = []
for _ in range(400):
    DEEP = [DEEP]


def some(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Return up to two of `fields`: with more of them wrong, the first one found would hide the others."""
    names = st.sets(st.sampled_from(sorted(fields)), max_size=2)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: fields[name] for name in sorted(chosen)}))


plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.just(HUGE),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["\ud800", "\0", "\n", "x" * 5_000, "é" * 300, "1e999", "-1", "../../etc", "{queue}", "%s%n"]),
)
junk = st.one_of(
    plain, st.lists(plain, max_size=3), st.dictionaries(st.text(max_size=5), plain, max_size=3), st.just(DEEP)
)
#: Nearly a signature.
signatures = st.one_of(
    junk,
    st.fixed_dictionaries(
        {"task": st.one_of(junk, st.just("proj.noop")), "args": junk, "kwargs": junk},
        optional={
            "options": st.one_of(junk, st.dictionaries(st.sampled_from(["queue", "task_id", "link"]), junk)),
            "subtask_type": st.one_of(junk, st.sampled_from(["group", "chain", "chord"])),
            "immutable": junk,
        },
    ),
)
times = st.one_of(
    junk,
    st.sampled_from(
        [
            "0001-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59-23:59",
            "2020-02-30T00:00:00",
            "2020-01-01T00:00:00",
            "20200101T000000Z",
            "tomorrow",
            1e308,
            -1e308,
        ]
    ),
)
task_headers = some(
    {
        "task": st.one_of(junk, st.just("proj.nowhere")),
        "id": junk,
        "eta": times,
        "expires": times,
        "retries": junk,
        "timelimit": st.one_of(junk, st.lists(plain, min_size=2, max_size=2)),
        "ignore_result": junk,
        "redelivered": junk,
        "deliveries": junk,
        "shadow": junk,
        "group": junk,
        "group_index": junk,
        "parent_id": junk,
        "root_id": junk,
        "compression": st.one_of(junk, st.sampled_from(["gzip", "zlib", "application/x-gzip", "bzip2", "none"])),
        "stamps": junk,
        "stamped_headers": junk,
        "replaced_task_nesting": junk,
        "argsrepr": junk,
        "kwargsrepr": junk,
        "lang": junk,
        "origin": junk,
        "x-death": junk,
        "handed_back": st.one_of(junk, some({"times": junk, "until": times})),
    }
)
embeds = some(
    {
        "callbacks": st.one_of(junk, st.lists(signatures, max_size=2)),
        "errbacks": st.one_of(junk, st.lists(signatures, max_size=2)),
        "chain": st.one_of(junk, st.lists(signatures, max_size=2)),
        "chord": st.one_of(junk, signatures),
    }
)
calls = st.one_of(
    junk,
    st.tuples(junk, junk, junk),
    st.tuples(st.just(["x"]), st.just({}), embeds),
    # Protocol 1: the call, and all about it, in the body.
    st.fixed_dictionaries(
        {},
        optional={
            "task": st.one_of(junk, st.just("proj.add")),
            "id": junk,
            "args": junk,
            "kwargs": junk,
            "retries": junk,
            "eta": times,
            "expires": times,
            "utc": junk,
            "callbacks": junk,
            "errbacks": junk,
            "chord": junk,
            "taskset": junk,
            "timelimit": junk,
        },
    ),
)
bodies = st.one_of(
    st.binary(max_size=20),
    calls.map(lambda call: json.dumps(call).encode()),
    st.sampled_from(
        [BOMB, zlib.compress(b"[" * 1_000_000), b"[" * 10_000, b"null", b'"\\ud800"', b"NaN", b"\xef\xbb\xbf[]"]
    ),
)
envelopes = st.tuples(
    st.integers(0, 5),  # 0: no sound header at all, so that protocol 1 has its turn
    task_headers,
    some(
        {
            "correlation_id": junk,
            "reply_to": junk,
            "priority": junk,
            "delivery_info": junk,
            "delivery_tag": junk,
            "delivery_mode": junk,
            "body_encoding": st.one_of(junk, st.just("base32")),
        }
    ),
    st.one_of(st.just([["x"], {}, {}]), calls, bodies),
    st.dictionaries(
        st.sampled_from(["content-type", "content-encoding", "headers", "properties", "body", "extra"]),
        junk,
        max_size=1,
    ),
    st.sampled_from(["application/json"] * 6 + ["application/x-python-serialize", "application/data", "text/x-é"]),
    st.sampled_from(["utf-8"] * 6 + ["binary", "utf-16", "rot13", "\0"]),
)


def _bytes(number: int, made: tuple[Any, ...]) -> bytes:
    sound, headers, properties, body, broken, content_type, content_encoding = made
    task_id = f"hostile-{number}"
    known = {"task": "proj.echo", "id": task_id, "retries": 0, "lang": "py"} if sound else {}
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    document = {
        "body": base64.b64encode(raw).decode(),
        "content-type": content_type,
        "content-encoding": content_encoding,
        "headers": known | headers,
        "properties": {"correlation_id": task_id, "body_encoding": "base64", "delivery_tag": task_id} | properties,
    } | broken
    return json.dumps(document).encode()


def messages(count: int) -> list[bytes]:
    """Return `count` of them.

    Made in an interpreter of their own: hypothesis takes values from the source of whatever happens to be imported.
    """
    command = [sys.executable, "-m", "support.hostile", str(count)]
    made = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, check=True, timeout=60)
    return made.stdout.splitlines()


def _make(count: int) -> list[bytes]:
    made: list[bytes] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(envelopes)
    def collect(envelope: tuple[Any, ...]) -> None:
        made.append(_bytes(len(made), envelope))

    collect()
    return made[:count]


if __name__ == "__main__":
    # One a line: JSON has no line breaks in it.
    sys.stdout.buffer.write(b"\n".join(_make(int(sys.argv[1]))))
