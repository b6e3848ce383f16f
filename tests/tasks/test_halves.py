"""Data sets fall into two halves by their texts alone."""

from __future__ import annotations

import hashlib

from lavakv.tasks import Example, TaskSettings
from lavakv.tasks.halves import chosen_examples, half_of

EXAMPLES = [
    Example("t", str(index), f"Read: {index}", "?", ("a",), source=f"text {index} " * 300) for index in range(40)
]


def _names(**settings: object) -> list[str]:
    return [example.name for example in chosen_examples(EXAMPLES, TaskSettings(**settings))]


def test_the_halves_share_nothing_and_are_everything() -> None:
    choosing, reporting = _names(half="choosing"), _names(half="reporting")
    assert sorted([*choosing, *reporting], key=int) == _names() == [example.name for example in EXAMPLES]
    assert 10 < len(choosing) < 30
    assert _names(half="reporting", limit=3) == reporting[:3]
    assert _names(limit=3) == ["0", "1", "2"]


def test_a_half_is_told_by_the_parity_of_a_hash_of_the_first_thousand_characters() -> None:
    for example in EXAMPLES:
        digest = hashlib.sha256(example.source[:1000].encode()).hexdigest()
        assert half_of(example.source) == ("reporting" if int(digest, 16) % 2 else "choosing")
        assert half_of(example.source[:1000] + "else") == half_of(example.source)


def test_without_a_source_the_context_tells() -> None:
    plain = [Example("t", str(index), f"context {index}", "?", ("a",)) for index in range(9)]
    found = chosen_examples(plain, TaskSettings(half="choosing"))
    assert [each.name for each in found] == [each.name for each in plain if half_of(each.context) == "choosing"]
