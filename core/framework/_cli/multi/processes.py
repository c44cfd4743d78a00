"""Starts the processes of nodes, finds them by their pidfiles, and signals them."""

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

#: The Python that runs the nodes: the one that runs this process.
PYTHON: Final = sys.executable


class NodeFailed(FrameworkError):
    """A directory of a node cannot be created, or its process cannot be signalled."""

    exit_code = exitcodes.CANT_CREATE


def make_directories(node: ClusterNode) -> None:
    """Create the directories of the node's files, owned by the user that runs the node. Raises `NodeFailed`."""
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
                f"the directory {directory} cannot be created: {error.strerror}; "
                "give writable paths, as in --pidfile=%n.pid --logfile=%n%I.log"
            ) from None


def launch(node: ClusterNode, directory: str | None) -> subprocess.Popen[str]:
    """Run the node's command in `directory`; it ends when the worker has started or failed to start."""
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
    """Return the pid in the node's pidfile; None: that process does not run."""
    return holder(node.pidfile)


def send(node: ClusterNode, pid: int, signum: signal.Signals) -> bool:
    """Signal the process `pid` of `node`; return whether it exists. Raises `NodeFailed`."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    except PermissionError:
        raise NodeFailed(f"process {pid} of {node.name} belongs to another user") from None
    return True
