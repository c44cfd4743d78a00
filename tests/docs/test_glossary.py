"""The glossary is kept: its words have one meaning, and the words that it rules out occur in no identifier."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
#: Source files of the project, without the conformance suites.
SOURCES = [
    path
    for base in ("core/framework", "plugins")
    for path in sorted((ROOT / base).rglob("*.py"))
    if "testing" not in path.parts
]
#: Class names that stand for two things, with the reason.
TWICE = {"Task": "the class of tasks, and Celery's name for a task in the state that monitors keep"}
#: What of an identifier is not looked at: the glossary's own word, and the former name of `PoolContext.outcome_for`.
KEPT = re.compile(r"dead_?letters?|^verdict$", re.IGNORECASE)


def rows(heading: str) -> dict[str, str]:
    """Return the table below `heading`, or the first one, by its first column."""
    text = GLOSSARY.partition(heading)[2]
    table = re.search(r"^\|[- |]+\|\n((?:\|.*\|\n?)+)", text, re.MULTILINE)
    assert table is not None
    cells = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table[1].splitlines()]
    return {row[0]: row[1] for row in cells}


WORDS = rows("# Glossary")
BANNED = {
    word.strip(): instead for words, instead in rows("## Words that are not used").items() for word in words.split(",")
}


def parts(identifier: str) -> list[str]:
    """Split an identifier into its words."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)]


def identifiers(path: Path) -> set[str]:
    """Return the identifiers of a file, and its name."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME} | {path.stem}


def test_words_stand_in_order_and_once():
    names = list(WORDS)
    assert names == sorted(set(names))
    assert list(BANNED) == sorted(set(BANNED))


def test_no_word_is_both_used_and_ruled_out():
    assert not {word.strip() for words in WORDS for word in words.split(",")} & BANNED.keys()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_identifier_contains_a_word_that_is_ruled_out(path):
    found = {}
    for identifier in identifiers(path):
        bad = set(parts(KEPT.sub("", identifier))) & BANNED.keys()
        if bad:
            found[identifier] = ", ".join(f"write {BANNED[word]!r} for {word!r}" for word in sorted(bad))
    assert found == {}


def test_a_class_name_stands_for_one_thing():
    places = defaultdict(list)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert twice.keys() == TWICE.keys(), twice
