"""Workflows: calls that have not been made yet, and ways to put them together.

1. `Signature` is a task's name with arguments and options.
2. `chain` runs one after the other, each getting the result of the one before; `a | b` makes one.
3. `group` sends several at once, under one group id.
4. `chord` sends a task, its *body*, with the results of a group, its *header*, once all of that is done.
5. `xmap`, `xstarmap` and `chunks` run one task for many arguments, in one or in few messages.
6. `signature` and `Signature.from_dict` make them again from what came in a message.
7. `StampingVisitor` marks all parts of a workflow.

Source: the signature documents of Celery 5 (task protocol 2, embed).
"""

from __future__ import annotations

from framework.client.canvas.chains import chain
from framework.client.canvas.chords import chord
from framework.client.canvas.groups import group
from framework.client.canvas.mapped import chunks, xmap, xstarmap
from framework.client.canvas.signatures import Signature, signature
from framework.client.canvas.stamping import StampingVisitor

__all__ = [
    "Signature",
    "StampingVisitor",
    "chain",
    "chord",
    "chunks",
    "group",
    "signature",
    "xmap",
    "xstarmap",
]
