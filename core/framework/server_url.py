"""URLs of brokers and result stores, which may hold a user and a password.

1. `mask` makes such a URL fit for display, and `hide` any secret.
2. `check` refuses one whose user or password was not percent-encoded. It would be read as another host, and messages
   about that host would show a part of the password.
3. `with_account` puts user and password from settings into a URL that has none.

A URL may name several servers, separated by ``;``; the later ones may leave out the scheme. Source: RFC 3986, section
3.2, and kombu's form for several servers.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

from framework.exceptions import ConfigError

HIDDEN: Final = "********"
#: What begins the path, the query or the fragment.
_END: Final = re.compile(r"[/?#]")
#: Parameters of the query with an ``@`` that is no end of a password: paths of files.
_FILES: Final = re.compile(r"[?&]ssl_\w+=[^&#]*")
#: The host of a server, or several with commas between them, as URLs of some stores have it.
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%\w]*\]|[^:\[\]]*)(?::\d+)?\Z|[^\[\]]*,[^\[\]]*\Z")
#: Characters that may not stand in a user or a password as they are: `urlsplit` drops or refuses them.
_FORBIDDEN: Final = re.compile(r"[\[\]\x00-\x20\x7f]")


def _parts(url: str) -> tuple[str, list[str]]:
    """Return the first scheme with ``://``, and what follows the scheme of each server."""
    scheme, mark, rest = url.partition("://")
    if not mark:
        return "", [url]
    if rest.startswith("/"):
        return scheme + mark, [rest]  # a file
    return scheme + mark, [part.strip() for part in rest.split(";")]


def _authority(part: str) -> tuple[str, str, str, str]:
    """Return scheme with ``://`` (""), account, host with port, and the rest of one server."""
    scheme, mark, rest = part.partition("://")
    if not mark:
        scheme, rest = "", part
    end = _END.search(rest)
    place = len(rest) if end is None else end.start()
    account, _, host = rest[:place].rpartition("@")
    return scheme + mark, account, host, rest[place:]


def _sound(part: str) -> bool:
    """Whether the account of one server ends where it seems to end."""
    if part.startswith("/"):
        return True  # a path alone
    _, account, host, rest = _authority(part)
    return (
        not _FORBIDDEN.search(account)
        and _HOST.match(host) is not None
        # No server has a use for a fragment.
        and "#" not in rest
        and "@" not in _FILES.sub("", rest)
    )


def mask(url: str) -> str:
    """Return `url` for display: without passwords, and without the user if it is not clear where one ends."""
    scheme, parts = _parts(url)
    if not scheme:
        return url
    if not all(map(_sound, parts)):
        end = url.rfind("@")
        if end >= 0:
            return f"{scheme}{HIDDEN}{url[end:]}"
        # No account ends here; what stands for a port may be a password.
        return scheme + ";".join(_without_port(part) for part in parts)
    return scheme + ";".join(map(_mask_one, parts))


def hide(secret: str) -> str:
    """Return the value of a secret setting for display: a URL masked, all else hidden."""
    return mask(secret) if "://" in secret else HIDDEN


def _mask_one(part: str) -> str:
    own, account, host, rest = _authority(part)
    if not account:
        return part
    user, colon, _ = account.partition(":")
    return f"{own}{user}{f':{HIDDEN}' if colon else ''}@{host}{rest}"


def _without_port(part: str) -> str:
    own, _, host, rest = _authority(part)
    if _HOST.match(host):
        return part
    return f"{own}{host.partition(':')[0]}:{HIDDEN}{rest}"


def check(url: str, table: str = "broker") -> None:
    """Raise `ConfigError` if `url` has a user, password or host that no URL can have; `table`: that of the settings."""
    scheme, parts = _parts(url)
    if not scheme or all(map(_sound, parts)):
        return
    if "@" not in url:
        raise ConfigError(f"{mask(url)!r} is no URL of a server: after host: there must be a number, the port")
    raise ConfigError(
        f"the user or the password in {mask(url)!r} has a character that means something in URLs: percent-encode "
        "it (/ is %2F, # is %23, ? is %3F, [ is %5B, ; is %3B, @ is %40), or leave both out of the URL and set "
        f"username and password (or password_file) under [{table}]"
    )


def with_account(url: str, username: str | None, password: str | None, table: str = "broker") -> str:
    """Return `url` with `username` and `password`, percent-encoded, for each server that names none.

    `table` is that of the settings. Raises `ConfigError` as `check` does, and if a server has another password.
    """
    check(url, table)
    scheme, parts = _parts(url)
    if (not username and not password) or (len(parts) == 1 and parts[0].startswith("/") and "socket" not in scheme):
        return url
    return scheme + ";".join(_with_account(part, username, password, table) for part in parts)


def _with_account(part: str, username: str | None, password: str | None, table: str) -> str:
    own, account, host, rest = _authority(part)
    user, _, secret = account.partition(":")
    if secret and password and unquote(secret) != password:
        raise ConfigError(
            f"[{table}]: there are two passwords, one in the URL and one of its own: leave one of them out"
        )
    user = user or quote(username or "", safe="")
    secret = secret or quote(password or "", safe="")
    return f"{own}{user}{f':{secret}' if secret else ''}@{host}{rest}"
