"""Compression of message bodies, under kombu's MIME types.

1. zlib (called gzip), bzip2 and lzma are built in; kombu's registry supplies any other method.
2. Decompression stops as soon as the output is larger than allowed, so a small message cannot fill the memory.
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

#: By MIME type: module of the standard library, its decompressor, its error. Imported on use: few programs need them,
#: and not every Python has bz2 and lzma.
_BUILT_IN: Final = {
    "application/x-gzip": ("zlib", "decompressobj", "error"),
    "application/x-bz2": ("bz2", "BZ2Decompressor", ""),
    "application/x-lzma": ("lzma", "LZMADecompressor", "LZMAError"),
}


def compress(body: bytes, method: str) -> tuple[bytes, str]:
    """Compress `body` by `method`, a name (gzip, bzip2, lzma, …) or MIME type; return the result and the MIME type.

    Raises `ConfigError` for an unknown method.
    """
    mime = _ALIASES.get(method, method)
    if mime in _BUILT_IN:
        return import_module(_BUILT_IN[mime][0]).compress(body), mime
    try:
        packed, kind = import_module("kombu.compression").compress(body, method)
    except KeyError:
        raise ConfigError(f"unknown compression {method!r}: use one of {', '.join(sorted(_ALIASES))}") from None
    return packed, str(kind)


def decompress(body: bytes, method: str, max_size: int | None = None) -> bytes:
    """Decompress `body` by `method`, a MIME type or name.

    Raises `MessageTooLarge` when the result is larger than `max_size` bytes (the built-in methods stop there),
    `MessageUndecodable` for an unknown method or malformed bytes.
    """
    mime = _ALIASES.get(method, method)
    if mime in _BUILT_IN:
        library, decompressor, error = _BUILT_IN[mime]
        module = import_module(library)
        return _bounded(getattr(module, decompressor)(), getattr(module, error, OSError), body, method, max_size)
    try:
        decoder: Callable[[bytes], bytes] = import_module("kombu.compression").get_decoder(method)
    except KeyError:
        raise MessageUndecodable(
            f"the body is compressed by {method!r}, which this process cannot decompress"
        ) from None
    try:
        plain = decoder(body)
    except Exception as problem:  # each library has its own errors, and the bytes come from outside
        raise MessageUndecodable(f"the body is not {method}: {problem}") from problem
    if max_size is not None and len(plain) > max_size:
        raise _too_large(max_size)
    return plain


def _bounded(decompressor: Any, failure: type[Exception], body: bytes, method: str, max_size: int | None) -> bytes:
    limit = -1 if max_size is None else max_size + 1
    try:
        # Without a limit, zlib expects 0 and the other two expect -1.
        plain = decompressor.decompress(body, max(limit, 0) if failure.__module__ == "zlib" else limit)
    except (failure, EOFError, ValueError) as error:
        raise MessageUndecodable(f"the body is not {method}: {error}") from error
    if max_size is not None and len(plain) > max_size:
        raise _too_large(max_size)
    if not decompressor.eof:
        raise MessageUndecodable(f"the body is not {method}: it ends too early")
    return bytes(plain)


def _too_large(limit: int) -> MessageTooLarge:
    return MessageTooLarge(
        f"the decompressed body is larger than the {limit:,} bytes that max_message_size under [task] allows"
    )
