"""Drawings of the boot graphs as text, DOT, Mermaid or SVG; the text can explain why each step runs or does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Literal

import msgspec

from framework._boot.blueprint import Blueprint, GraphSource, StepState, blueprint
from framework._boot.graph import GraphNode, edges

Format = Literal["text", "dot", "mermaid", "svg"]


class StepBox(msgspec.Struct, frozen=True):
    """A step in a drawing."""

    name: str
    origin: str
    requires: tuple[str, ...]
    #: Why the step does not run; None: it runs.
    absent: str | None
    #: Position in the start order, from 1; 0: the step does not run.
    order: int

    @property
    def label(self) -> str:
        """The step's name, followed by the name of the plugin that was chosen for it, if any."""
        chosen, of, _ = self.origin.partition(" of ")
        return f"{self.name}: {chosen.partition(' ')[2]}" if of else self.name


class Drawing(msgspec.Struct, frozen=True):
    """One graph, ready to be drawn."""

    name: str
    boxes: tuple[StepBox, ...]
    #: Pairs ``(step, required step)``.
    edges: tuple[tuple[str, str], ...]


def drawings(sources: Iterable[GraphSource], settings: Any) -> list[Drawing]:
    """Return the graphs of `sources` for `settings`; starts nothing. Raises `GraphError`."""
    return [
        _drawing(blueprint(source.name, source.built_in, settings, dict.fromkeys(source.given))) for source in sources
    ]


def _drawing(graph: Blueprint) -> Drawing:
    absent = [part for part in graph.parts if part.absent is not None]
    nodes: list[GraphNode] = [part.node for part in graph.order]
    boxes = [_box(part, number) for number, part in enumerate(graph.order, 1)]
    return Drawing(graph.name, tuple(boxes + [_box(part, 0) for part in absent]), tuple(edges(nodes)))


def _box(part: StepState, order: int) -> StepBox:
    return StepBox(part.step.name, part.origin, part.step.requires, part.absent, order)


def render(drawing: Drawing, form: Format, explain: bool = False) -> str:
    """Return `drawing` in the format `form`; `explain` (text only) adds why each step runs or does not."""
    if form == "dot":
        return _dot(drawing)
    if form == "mermaid":
        return _mermaid(drawing)
    if form == "svg":
        return _svg(drawing)
    return _text(drawing, explain)


def _text(drawing: Drawing, explain: bool) -> str:
    lines = [f"{drawing.name} graph, in start order"]
    width = max(len(box.name) for box in drawing.boxes)
    for box in drawing.boxes:
        if box.absent is None:
            needs = f"  after {', '.join(box.requires)}" if box.requires else ""
            lines.append(f"{box.order:>4}. {box.name:<{width}}{needs}")
            if explain:
                dependents = [name for name, needed in drawing.edges if needed == box.name]
                lines.append(f"      {'':<{width}}  runs: provided by {box.origin}; " + _required_by(dependents))
        elif explain:
            lines.append(f"   -  {box.name:<{width}}  does not run: {box.absent} (provided by {box.origin})")
        else:
            lines.append(f"   -  {box.name:<{width}}  does not run")
    return "\n".join(lines) + "\n"


def _required_by(dependents: Sequence[str]) -> str:
    return f"required by {', '.join(dependents)}" if dependents else "no step requires it"


def _dot(drawing: Drawing) -> str:
    lines = [f'digraph "{drawing.name}" {{', "  rankdir=LR;", '  node [shape=box, fontname="sans-serif"];']
    for box in drawing.boxes:
        style = "" if box.absent is None else ", style=dashed"
        lines.append(f'  "{box.name}" [label="{box.label}", tooltip="{box.origin}"{style}];')
    lines += [f'  "{name}" -> "{needed}";' for name, needed in drawing.edges]
    return "\n".join([*lines, "}"]) + "\n"


def _mermaid(drawing: Drawing) -> str:
    lines = ["flowchart LR"]
    lines += [f'  {box.name}["{box.label}"]' + (":::absent" if box.absent else "") for box in drawing.boxes]
    lines += [f"  {name} --> {needed}" for name, needed in drawing.edges]
    if any(box.absent for box in drawing.boxes):
        lines.append("  classDef absent stroke-dasharray: 4 4")
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- SVG

_WIDTH, _HEIGHT, _GAP, _MARGIN = 170, 30, 12, 16
#: Pixels that an arc bulges for each step that it passes.
_BULGE = 22


def _svg(drawing: Drawing) -> str:
    """Draw the steps below each other in start order, and requirements as arcs beside them.

    A layered layout does not suit: most steps require many others, so its lines would cross boxes.
    """
    rows = {box.name: row for row, box in enumerate(drawing.boxes)}
    longest = max((abs(rows[name] - rows[needed]) for name, needed in drawing.edges), default=1)
    right = _MARGIN + _WIDTH
    width = right + longest * _BULGE * 3 // 4 + 2 * _MARGIN
    height = 2 * _MARGIN + len(rows) * (_HEIGHT + _GAP) - _GAP

    def middle(name: str) -> int:
        return _MARGIN + rows[name] * (_HEIGHT + _GAP) + _HEIGHT // 2

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="13">',
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#446"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for name, needed in drawing.edges:
        bulge = right + abs(rows[name] - rows[needed]) * _BULGE
        # Arrows start above the middle of a box and end below it, so that they do not cover each other.
        start, end = middle(name) - 5, middle(needed) + 5
        parts.append(
            f'<path d="M{right} {start} C{bulge} {start} {bulge} {end} {right} {end}" fill="none" stroke="#88a" '
            f'marker-end="url(#arrow)"><title>{escape(name)} requires {escape(needed)}</title></path>'
        )
    for box in drawing.boxes:
        dashed = ' stroke-dasharray="4 3"' if box.absent else ""
        top = middle(box.name) - _HEIGHT // 2
        parts.append(
            f'<g><title>{escape(box.absent or box.origin)}</title><rect x="{_MARGIN}" y="{top}" width="{_WIDTH}" '
            f'height="{_HEIGHT}" rx="6" fill="#f4f6fb" stroke="#446"{dashed}/>'
            f'<text x="{_MARGIN + _WIDTH // 2}" y="{top + 20}" text-anchor="middle">{escape(box.label)}</text></g>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
