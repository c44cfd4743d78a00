"""Addresses: parses AMQP broker URLs.

1. Splits failover URLs separated by ``;`` and parses each: host, port, user, virtual host, TLS, and the query.
2. Displays them without the password.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from framework.exceptions import ConfigError
from framework.server_url import check, mask

PORT: Final = 5672
TLS_PORT: Final = 5671
_TLS_KEYS: Final = ("ca_certs", "certfile", "keyfile", "cert_reqs", "ciphers", "server_hostname")
_CERT_REQS: Final = {
    "CERT_NONE": ssl.CERT_NONE,
    "none": ssl.CERT_NONE,
    "CERT_OPTIONAL": ssl.CERT_OPTIONAL,
    "optional": ssl.CERT_OPTIONAL,
    "CERT_REQUIRED": ssl.CERT_REQUIRED,
    "required": ssl.CERT_REQUIRED,
}


class AmqpAddress(msgspec.Struct, frozen=True, kw_only=True):
    """One broker's address, and the user to log in as."""

    host: str
    port: int
    user: str
    password: str
    virtual_host: str
    #: py-amqp's argument `ssl`: False, or the arguments of its TLS set-up.
    tls: dict[str, Any] | bool = False

    @property
    def display(self) -> str:
        """The URL for display, without the password."""
        scheme = "amqps" if self.tls else "amqp"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{self.user}:**@{host}:{self.port}/{self.virtual_host}"

    @property
    def host_port(self) -> str:
        """Host and port in py-amqp's form."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def addresses(urls: str, use_ssl: bool | Mapping[str, Any] | None) -> list[AmqpAddress]:
    """Parse `urls`, separated by ``;``; later ones may leave out the scheme. Raises `ConfigError`."""
    check(urls)
    found: list[AmqpAddress] = []
    scheme = ""
    for part in urls.split(";"):
        url = part.strip()
        if not url:
            continue
        if "://" not in url:
            url = f"{scheme or 'amqp'}://{url}"
        scheme = url.partition("://")[0]
        found.append(_address(url, use_ssl))
    if not found:
        raise ConfigError("the broker URL is empty; wanted something like amqp://user:password@host:5672/vhost")
    return found


def _address(url: str, use_ssl: bool | Mapping[str, Any] | None) -> AmqpAddress:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # Without its text, which may show what is not masked.
        raise ConfigError(
            f"the broker URL {mask(url)!r} is not valid; wanted amqp://user:password@host:5672/vhost"
        ) from None
    query = dict(parse_qsl(parts.query))
    host = parts.hostname or "localhost"
    secure = parts.scheme == "amqps" or bool(use_ssl)
    return AmqpAddress(
        host=host,
        port=port or (TLS_PORT if secure else PORT),
        user=unquote(parts.username) if parts.username is not None else "guest",
        password=unquote(parts.password) if parts.password is not None else "guest",
        # "//" and "/" are both the virtual host "/", as in every Celery configuration.
        virtual_host=unquote(parts.path[1:]) or "/",
        tls=_tls(host, use_ssl if isinstance(use_ssl, Mapping) else {}, query) if secure else False,
    )


def _tls(host: str, use_ssl: Mapping[str, Any], query: Mapping[str, str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for key in _TLS_KEYS:
        for source, name in ((query, f"ssl_{key}"), (query, key), (use_ssl, f"ssl_{key}"), (use_ssl, key)):
            if source.get(name) is not None:
                given[key] = source[name]
    wanted = given.get("cert_reqs", ssl.CERT_REQUIRED)
    if isinstance(wanted, str):
        if wanted not in _CERT_REQS:
            raise ConfigError(f"cert_reqs is {wanted!r}; wanted one of {', '.join(_CERT_REQS)}")
        wanted = _CERT_REQS[wanted]
    given["cert_reqs"] = wanted
    if wanted == ssl.CERT_NONE:
        # The ssl module refuses to check the host name of an unchecked certificate.
        given.pop("server_hostname", None)
    else:
        given.setdefault("server_hostname", host)
    return given
