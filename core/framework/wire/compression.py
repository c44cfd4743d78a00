"""Compression of message bodies, under the MIME types that kombu gives them.

1. `compress` and `decompress` know zlib (called gzip), bzip2 and lzma themselves, and ask kombu's registry for any
   other.
2. Decompression stops as soon as the output is larger than allowed: a small message cannot fill the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from framework.exceptions import ConfigError, MessageTooLarge, MessageUndecodable

_ALIASES: Final = {
    "gzip": "application/x-gzip",
    "zlib": "application/x-gzip",
    "bzip2": "application/x-bz2",
    "bz2": "application/x-bz2",
    "bzip": "application/x-bz2",
    "lzma": "application/x-lzma",
    "xz": "application/x-lzma",
}

#: Modules of the standard library with the names of their decompressor and its error, by MIME type. Imported when
#: needed: few programs need them, and not every Python has bz2 and lzma.
_BUILT_IN: Final = {
    "application/x-gzip": ("zlib", "decompressobj", "error"),
    "application/x-bz2": ("bz2", "BZ2Decompressor", ""),
    "application/x-lzma": ("lzma", "LZMADecompressor", "LZMAError"),
}


def compress(body: bytes, method: str) -> tuple[bytes, str]:
    """Compress `body` by `method`, a name (gzip, bzip2, lzma, …) or MIME type; return it and the MIME type.

    Raises `ConfigError` when there is no such compression here.
    """
    mime = _ALIASES.get(method, method)
    if mime in _BUILT_IN:
        return import_module(_BUILT_IN[mime][0]).compress(body), mime
    try:
        packed, kind = import_module("kombu.compression").compress(body, method)
    except KeyError:
        raise ConfigError(
            f"there is no compression {method!r} here (there are {', '.join(sorted(_ALIASES))})"
        ) from None
    return packed, str(kind)


def decompress(body: bytes, method: str, max_size: int | None = None) -> bytes:
    """Decompress `body` by `method`, a MIME type or name.

    Raises `MessageTooLarge` when the result is larger than `max_size` bytes (checked while decompressing for the three
    built-in methods), `MessageUndecodable` when the bytes or the method are wrong.
    """
    mime = _ALIASES.get(method, method)
    if mime in _BUILT_IN:
        library, decompressor, error = _BUILT_IN[mime]
        module = import_module(library)
        return _bounded(getattr(module, decompressor)(), getattr(module, error, OSError), body, method, max_size)
    try:
        decoder: Callable[[bytes], bytes] = import_module("kombu.compression").get_decoder(method)
    except KeyError:
        raise MessageUndecodable(f"the body is compressed by {method!r}, which is not known here") from None
    try:
        plain = decoder(body)
    except Exception as problem:  # each library has errors of its own, and the bytes come from outside
        raise MessageUndecodable(f"the body is not {method}: {problem}") from problem
    if max_size is not None and len(plain) > max_size:
        raise _too_large(max_size)
    return plain


def _bounded(machine: Any, wrong: type[Exception], body: bytes, method: str, max_size: int | None) -> bytes:
    limit = -1 if max_size is None else max_size + 1
    try:
        # zlib's "no limit" is 0, that of the other two -1.
        plain = machine.decompress(body, max(limit, 0) if wrong.__module__ == "zlib" else limit)
    except (wrong, EOFError, ValueError) as error:
        raise MessageUndecodable(f"the body is not {method}: {error}") from error
    if max_size is not None and len(plain) > max_size:
        raise _too_large(max_size)
    if not machine.eof:
        raise MessageUndecodable(f"the body is not {method}: it ends too early")
    return bytes(plain)


def _too_large(limit: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"the decompressed body is larger than the {limit:,} bytes that max_message_size under [task] allows"
    )
