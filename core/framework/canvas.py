"""Door for `celery.canvas`: signatures and workflows, see `framework.client.canvas`."""

from __future__ import annotations

from framework.client.canvas import Signature, StampingVisitor, chain, chord, chunks, group, signature, xmap, xstarmap

__all__ = ["Signature", "StampingVisitor", "chain", "chord", "chunks", "group", "signature", "xmap", "xstarmap"]
