from __future__ import annotations

from pathlib import Path

import pytest

from lavakv import TaskError
from lavakv.tasks.haystack import haystack_text, haystack_words, sentences


def test_files_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, text in (("b.txt", "two three\n"), ("a.txt", "one\n"), ("c.md", "four"), ("B.txt", "zero\r\n")):
        (tmp_path / name).write_bytes(text.encode())
    assert haystack_text(tmp_path, 0).split() == ["zero", "one", "two", "three"]
    assert haystack_words(tmp_path, 1) == ("zero", "one", "two", "three")


def test_made_up_prose_depends_on_the_seed_alone() -> None:
    assert haystack_text(None, 1) == haystack_text(None, 1) != haystack_text(None, 2)
    made_up = sentences(haystack_text(None, 1))
    assert len(made_up) > 1000
    assert len(set(made_up)) > 0.9 * len(made_up)
    assert all(sentence.startswith("The ") and sentence.endswith(".") for sentence in made_up)


def test_sentences() -> None:
    assert sentences(" One is 1.5. Two?  Three!\nfour") == ["One is 1.5.", "Two?", "Three!", "four"]


@pytest.mark.parametrize("content", [None, b"  \n", b"\xff"])
def test_a_folder_without_text(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(TaskError):
        haystack_text(tmp_path, 0)
