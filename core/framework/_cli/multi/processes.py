"""The processes of nodes: started, found by their pidfiles, signalled and watched until they are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from framework import exitcodes
from framework._cli.multi.cluster import FILES, ClusterNode
from framework.exceptions import FrameworkError
from framework.worker.process.pidfile import holder
from framework.worker.process.privileges import identity

#: What makes a new process of a node: the Python that runs this one.
PYTHON: Final = sys.executable


class NodeFailed(FrameworkError):
    """Something about a node cannot be done."""

    exit_code = exitcodes.CANT_CREATE


def make_directories(node: ClusterNode) -> None:
    """Make the directories of the node's files, for the user that it will run as. Raises `NodeFailed`."""
    uid, gid = node.setting("worker_uid"), node.setting("worker_gid")
    for path in filter(None, map(node.path, FILES)):
        directory = Path(path).absolute().parent
        missing = [each for each in (directory, *directory.parents) if not each.exists()]
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if uid is not None or gid is not None:
                for each in missing:
                    os.chown(each, *identity(uid, gid))
        except OSError as error:
            raise NodeFailed(
                f"the directory {directory} cannot be made: {error.strerror}; "
                "give a place that is yours, as in --pidfile=%n.pid --logfile=%n%I.log"
            ) from None


def launch(node: ClusterNode, directory: str | None) -> subprocess.Popen[str]:
    """Run the node's command, which ends when the worker has begun or failed to."""
    return subprocess.Popen(
        [PYTHON, *node.argv()],
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def find(node: ClusterNode) -> int | None:
    """Return the process that the node's pidfile names, None when it does not run."""
    return holder(node.pidfile)


def send(node: ClusterNode, pid: int, signum: signal.Signals) -> bool:
    """Signal the process `pid` of `node`; return whether it was there. Raises `NodeFailed`."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise NodeFailed(f"process {pid} of {node.name} belongs to another user") from None
    return True
