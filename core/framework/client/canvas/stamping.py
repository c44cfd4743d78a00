"""Stamps: names with values in the messages of all tasks of a workflow, for finding and revoking the tasks.

A stamp is an option of a signature under its own name, listed in the option ``stamped_headers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from framework.client.canvas.documents import listed

if TYPE_CHECKING:
    from framework.client.canvas.chords import chord
    from framework.client.canvas.groups import group
    from framework.client.canvas.signatures import Signature

_NAMES = "stamped_headers"


class StampingVisitor:
    """Base of visitors for `Signature.stamp`, which return the stamps for each part of a workflow.

    Each method returns a mapping of stamps, or None. Its key ``stamped_headers`` lists the names that are stamps;
    without it, all are.
    """

    def on_signature(self, sig: Signature[Any], **headers: Any) -> Mapping[str, Any] | None:
        """Stamps for `sig`; `headers` are the stamps of the signature around it."""

    def on_group_start(self, sig: Signature[Any], **headers: Any) -> Mapping[str, Any] | None:
        """Stamps for a group and its tasks."""

    def on_group_end(self, sig: Signature[Any], **headers: Any) -> None:
        """Called after the tasks of a group."""

    def on_chain_start(self, sig: Signature[Any], **headers: Any) -> Mapping[str, Any] | None:
        """Stamps for a chain and its tasks."""

    def on_chain_end(self, sig: Signature[Any], **headers: Any) -> None:
        """Called after the tasks of a chain."""

    def on_chord_header_start(self, sig: chord[Any], **headers: Any) -> Mapping[str, Any] | None:
        """Stamps for the header of a chord."""

    def on_chord_header_end(self, sig: chord[Any], **headers: Any) -> None:
        """Called after the header of a chord."""

    def on_chord_body(self, sig: chord[Any], **headers: Any) -> Mapping[str, Any] | None:
        """Stamps for the body of a chord."""

    def on_callback(self, callback: Signature[Any], **headers: Any) -> Mapping[str, Any] | None:
        """Stamps for a callback of a task."""

    def on_errback(self, errback: Signature[Any], **headers: Any) -> Mapping[str, Any] | None:
        """Stamps for an error callback of a task."""


def stamp(sig: Signature[Any], visitor: StampingVisitor | None, append: bool, headers: Mapping[str, Any]) -> None:
    """Put the stamps from `headers` and `visitor` on `sig`, its parts and its callbacks."""
    _visit(sig, visitor or StampingVisitor(), append, _as_stamps(headers))


def _visit(sig: Signature[Any], visitor: StampingVisitor, append: bool, given: dict[str, Any]) -> None:
    kind = sig.get("subtask_type")
    if kind == "chain":
        _visit_all(sig, visitor, append, given, visitor.on_chain_start, visitor.on_chain_end)
    elif kind == "group":
        _visit_all(sig, visitor, append, given, visitor.on_group_start, visitor.on_group_end)
    elif kind == "chord":
        _visit_chord(sig, visitor, append, given)
    else:
        stamps = _joined(given, visitor.on_signature(sig, **given))
        _visit_links(sig, visitor, append, stamps)
        _put(sig.options, stamps, append)


def _visit_all(sig: Any, visitor: StampingVisitor, append: bool, given: dict[str, Any], start: Any, end: Any) -> None:
    stamps = _joined(given, start(sig, **given))
    _visit_links(sig, visitor, append, stamps)
    _put(sig.options, stamps, append)
    tasks = sig.tasks
    for task in tasks:
        _visit(task, visitor, append, stamps)
    sig["kwargs"] = {**sig.kwargs, "tasks": tasks}
    end(sig, **stamps)


def _visit_chord(sig: Any, visitor: StampingVisitor, append: bool, given: dict[str, Any]) -> None:
    stamps = _joined(given, visitor.on_signature(sig, **given))
    _put(sig.options, stamps, append)
    of_header = _joined(stamps, visitor.on_chord_header_start(sig, **stamps))
    header: list[Signature[Any]] = sig.tasks
    for task in header:
        _visit(task, visitor, append, of_header)
    visitor.on_chord_header_end(sig, **of_header)
    body = sig.body
    if body is not None:
        _visit(body, visitor, append, _joined(stamps, visitor.on_chord_body(sig, **stamps)))
    former = sig.kwargs["header"]
    if isinstance(former, Mapping):
        settled: group[Any] = sig.from_dict(former, sig._app)
        settled["kwargs"] = {"tasks": header}
        sig._with(settled, body)
    else:
        sig._with(header, body)


def _visit_links(sig: Signature[Any], visitor: StampingVisitor, append: bool, given: dict[str, Any]) -> None:
    for name, ask in (("link", visitor.on_callback), ("link_error", visitor.on_errback)):
        items = listed(sig.options.get(name))
        if not items:
            continue
        links = [sig.from_dict(item, sig._app).clone() for item in items]
        for link in links:
            _visit(link, visitor, append, _joined(given, ask(link, **given)))
        sig.options[name] = links


def _as_stamps(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return only the stamps among `values`."""
    if not values:
        return {}
    names = values.get(_NAMES)
    return {name: values[name] for name in (values if names is None else names) if name in values and name != _NAMES}


def _joined(given: dict[str, Any], more: Mapping[str, Any] | None) -> dict[str, Any]:
    return {**given, **_as_stamps(more)}


def _put(options: dict[str, Any], stamps: Mapping[str, Any], append: bool) -> None:
    if not stamps:
        return
    names = listed(options.get(_NAMES))
    for name, value in stamps.items():
        if append and name in names and name in options:
            present = listed(options[name])
            options[name] = [*present, *(each for each in listed(value) if each not in present)]
        else:
            options[name] = value
        if name not in names:
            names.append(name)
    options[_NAMES] = names
