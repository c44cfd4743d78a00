"""Workflows: signatures, and the ways to combine them.

1. `Signature` is a task's name with arguments and options.
2. `chain` runs tasks one after the other, each with the result of the preceding one; `a | b` makes a chain.
3. `group` sends several tasks at once, with one group id.
4. `chord` sends its *body*, a task, with the results of its *header*, a group, when all of these have ended.
5. `xmap`, `xstarmap` and `chunks` run one task for many arguments, in one message or in few.
6. `signature` and `Signature.from_dict` restore a signature from its document in a message.
7. `StampingVisitor` stamps all parts of a workflow.

Source: the signature documents of Celery 5 (task protocol 2, embed).
"""

from __future__ import annotations

from framework.client.canvas.chains import chain
from framework.client.canvas.chords import chord
from framework.client.canvas.groups import group
from framework.client.canvas.mapped import chunks, xmap, xstarmap
from framework.client.canvas.signatures import Signature, signature
from framework.client.canvas.stamping import StampingVisitor

__all__ = ["Signature", "StampingVisitor", "chain", "chord", "chunks", "group", "signature", "xmap", "xstarmap"]
