"""The worker's user and group: ``--uid``, ``--gid`` and ``--umask``, applied before the application is imported.

A worker that is root after that does not unpickle messages.
"""

from __future__ import annotations

import grp
import os
import pwd
from typing import TYPE_CHECKING, Final

from framework._config.options import did_you_mean
from framework.exceptions import ConfigError
from framework.wire.serialization import accepted

if TYPE_CHECKING:
    from framework._config.settings import Settings

_PICKLE: Final = "application/x-python-serialize"


def find_user(name: str | int) -> pwd.struct_passwd:
    """Return the passwd entry of a user, by name or number. Raises `ConfigError`."""
    try:
        return pwd.getpwuid(int(name)) if str(name).isdigit() else pwd.getpwnam(str(name))
    except KeyError:
        near = did_you_mean(str(name), [entry.pw_name for entry in pwd.getpwall()])
        raise ConfigError(f"the user {name} (--uid) does not exist{near}") from None


def find_group(name: str | int) -> int:
    """Return the number of a group, by name or number. Raises `ConfigError`."""
    if str(name).isdigit():
        return int(name)
    try:
        return grp.getgrnam(str(name)).gr_gid
    except KeyError:
        near = did_you_mean(str(name), [entry.gr_name for entry in grp.getgrall()])
        raise ConfigError(f"the group {name} (--gid) does not exist{near}") from None


def identity(uid: str | int | None, gid: str | int | None) -> tuple[int, int]:
    """Return uid and gid to run as. Default: the current ones, or with `uid` the user's group. Raises `ConfigError`."""
    user = None if uid is None else find_user(uid)
    group = find_group(gid) if gid is not None else user.pw_gid if user is not None else os.getegid()
    return (os.geteuid() if user is None else user.pw_uid), group


def become(uid: str | int | None, gid: str | int | None) -> None:
    """Switch to `uid` and `gid` permanently. Raises `ConfigError` when they do not exist or are not permitted."""
    if uid is None and gid is None:
        return
    user, group = identity(uid, gid)
    if os.geteuid() != 0:
        # A worker that has switched already passes here again after HUP, with the same user and group.
        if (user, group) != (os.geteuid(), os.getegid()):
            raise ConfigError("only root can run a worker as another user or group: leave --uid and --gid out")
        return
    # Groups first: only root can change them.
    if uid is not None:
        os.initgroups(find_user(uid).pw_name, group)
    else:
        os.setgroups([group])
    os.setgid(group)
    os.setuid(user)


def is_root() -> bool:
    """Return whether this process runs as root, or can become root again."""
    return 0 in (os.getuid(), os.geteuid())


def refuse_pickle_as_root(settings: Settings) -> None:
    """Raise `ConfigError` if messages or results may be pickled and this process is root, unless it is forced."""
    if settings.worker.force_root or not is_root():
        return
    for name, accept in (
        ("accept_content", settings.accept_content),
        ("accept_content under [result]", settings.result.accept_content),
    ):
        if accept is not None and accepted(_PICKLE, accept):
            raise ConfigError(
                f"{name} has pickle and the worker runs as root: whoever can send a message could run any code as "
                "root; run the worker as another user (--uid), remove pickle, or set force_root under [worker]"
            )


def mask(umask: str | None) -> None:
    """Set the file mode creation mask, written in octal. Raises `ConfigError`."""
    if umask is None:
        return
    try:
        value = int(umask.removeprefix("0o"), 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise ConfigError(f"the umask (--umask) is {umask!r}; wanted octal digits, such as 027")
    os.umask(value)
