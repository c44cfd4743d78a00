"""URLs of Redis servers: parsing, display without the password, and TLS.

1. `parse` reads ``redis://[user:password@]host[:port][/db]``, ``rediss://`` (TLS) and
   ``redis+socket:///path[?virtual_host=db]``; a URL may name several servers, separated by ``;``, to try in turn.
   ``redis-cluster://`` and ``rediss-cluster://`` name nodes of a cluster.
   ``sentinel://host[:port][/db]`` names Sentinels, which locate the server; user and password are the server's.
2. `tls_context` makes an `ssl.SSLContext` of the URL's ``ssl_…`` parameters, or of the setting ``use_ssl``.

Source of the forms: the Redis URL scheme registered with IANA, and kombu's form for Unix sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from framework.exceptions import ConfigError
from framework.server_url import check, mask

if TYPE_CHECKING:
    import ssl

DEFAULT_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
SCHEMES: Final = frozenset({"redis", "rediss", "redis+socket", "sentinel", "redis-cluster", "rediss-cluster"})
#: Parameters that name the database, as the path does.
_DATABASE: Final = frozenset({"db", "virtual_host"})
_VERIFY: Final = {
    "required": True,
    "cert_required": True,
    "optional": True,
    "cert_optional": True,
    "none": False,
    "cert_none": False,
}


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """The address of one server or Sentinel, parsed from a URL."""

    scheme: str
    host: str = "localhost"
    port: int = DEFAULT_PORT
    #: Path of a Unix socket; None: TCP.
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = None
    parameters: dict[str, str] = {}

    @property
    def tls(self) -> bool:
        """Whether the URL itself asks for TLS."""
        return self.scheme in ("rediss", "rediss-cluster")

    @property
    def cluster(self) -> bool:
        """Whether this is a node of a cluster."""
        return self.scheme in ("redis-cluster", "rediss-cluster")

    @property
    def sentinel(self) -> bool:
        """Whether this is a Sentinel, which locates the server."""
        return self.scheme == "sentinel"

    @property
    def display(self) -> str:
        """The address for display, without the password."""
        user = f"{self.username or ''}:**@" if self.password else f"{self.username}@" if self.username else ""
        if self.path is not None:
            return f"{self.scheme}://{user}{self.path}?virtual_host={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{user}{host}:{self.port}/{self.db}"


def parse(url: str) -> list[RedisAddress]:
    """Return the servers of `url`, in the order in which to try them. Raises `ConfigError`."""
    check(url)
    addresses: list[RedisAddress] = []
    for part in url.split(";"):
        text = part.strip()
        if not text:
            continue
        if "://" not in text and addresses:
            # As in kombu, later servers may leave out the scheme.
            text = f"{addresses[0].scheme}://{text}"
        addresses.append(_parse_one(text))
    if not addresses:
        raise ConfigError(f"{mask(url)!r} names no Redis server: write redis://host:6379/0")
    return addresses


def _parse_one(url: str) -> RedisAddress:
    shown = mask(url)
    try:
        found = urlsplit(url)
        port = found.port
    except ValueError:
        # Without its text, which may show what is not masked.
        raise ConfigError(f"{shown!r} is no Redis URL: write redis://host:6379/0") from None
    if found.scheme not in SCHEMES:
        raise ConfigError(f"{shown!r} is no Redis URL: its scheme must be one of {', '.join(sorted(SCHEMES))}")
    query = parse_qsl(found.query)
    numbers = [value for name, value in query if name in _DATABASE]
    path = None
    if found.scheme == "redis+socket":
        path = unquote(found.path)
        if not path:
            raise ConfigError(f"{shown!r} names no socket: write redis+socket:///path/to/redis.sock?virtual_host=0")
    elif found.path.strip("/"):
        numbers.insert(0, found.path.strip("/"))
    for number in numbers:
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise ConfigError(
                f"{shown!r} names the database {number!r}: it must be a number, as in redis://host:6379/0"
            )
    db, *others = dict.fromkeys(map(int, numbers)) or (0,)
    if others:
        raise ConfigError(
            f"{shown!r} names the databases {db} and {others[0]}: leave one of them out, as in redis://host:6379/{db}"
        )
    if db and found.scheme.endswith("-cluster"):
        raise ConfigError(f"{shown!r} names the database {db}: a cluster has number 0 only")
    return RedisAddress(
        scheme=found.scheme,
        host=found.hostname or "localhost",
        port=port or (SENTINEL_PORT if found.scheme == "sentinel" else DEFAULT_PORT),
        path=path,
        db=db,
        username=unquote(found.username) if found.username else None,
        password=unquote(found.password) if found.password else None,
        parameters={name: value for name, value in query if name not in _DATABASE},
    )


def tls_context(address: RedisAddress, use_ssl: bool | Mapping[str, Any] | None) -> ssl.SSLContext | None:
    """Return the TLS context of a connection to `address`; None: plain TCP or a Unix socket. Raises `ConfigError`.

    `use_ssl` is True, or a table with ``ssl_cert_reqs`` (``required``, the default, or ``none``), ``ssl_ca_certs``,
    ``ssl_certfile``, ``ssl_keyfile``, ``ssl_check_hostname``; the ``ssl_`` may be left out.
    """
    if address.path is not None or not (address.tls or use_ssl):
        return None
    import ssl  # start-up time: most connections are plain

    table = dict(use_ssl) if isinstance(use_ssl, Mapping) else {}
    given = {str(key).removeprefix("ssl_"): value for key, value in {**table, **address.parameters}.items()}
    wanted = given.get("cert_reqs", "required")
    verify = (
        _VERIFY.get(str(wanted).lower()) if isinstance(wanted, str) else wanted != ssl.CERT_NONE and wanted is not None
    )
    if verify is None:
        raise ConfigError(f"ssl_cert_reqs is {wanted!r}: it must be 'required' or 'none'")
    try:
        context = ssl.create_default_context(cafile=given.get("ca_certs"))
        if given.get("certfile"):
            context.load_cert_chain(given["certfile"], given.get("keyfile"))
    except OSError as error:
        raise ConfigError(f"the TLS files for {address.display} cannot be used: {error}") from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif str(given.get("check_hostname", True)).lower() in ("false", "0", "no"):
        context.check_hostname = False
    return context
