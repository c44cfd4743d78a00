"""The worker's user and group: ``--uid``, ``--gid`` and ``--umask``, applied before the application is imported."""

from __future__ import annotations

import grp
import os
import pwd

from framework._config.options import did_you_mean
from framework.exceptions import ConfigError


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
