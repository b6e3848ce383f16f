"""SQuAD and HotpotQA as RULER uses them, from a file or from the hub."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lavakv.errors import DataUnavailableError, TaskError
from lavakv.tasks.data import strings
from lavakv.tasks.hub import hub_records

_HUB = {
    "squad": {"dataset_path": "rajpurkar/squad_v2", "test_split": "validation"},
    "hotpotqa": {"dataset_path": "hotpotqa/hotpot_qa", "dataset_name": "distractor", "test_split": "validation"},
}


class Question(NamedTuple):
    """A question, its answers, the passages that hold them and others of the same article, as indices."""

    text: str
    answers: tuple[str, ...]
    passages: tuple[int, ...]
    related: tuple[int, ...]


class Reading(NamedTuple):
    """Passages in a fixed order, and questions on them."""

    passages: tuple[str, ...]
    questions: tuple[Question, ...]


@cache
def reading(source: str, data_dir: Path | None) -> Reading:
    """All of a set that RULER draws from.

    Args:
        source: `squad` (2.0, the answerable questions of dev) or `hotpotqa` (dev, distractor).
        data_dir: its `ruler/sources/<source>.json` is the set's own file; None loads from the hub.

    Raises:
        DataUnavailableError: no such file, or it cannot be loaded from the hub.
        TaskError: a file that cannot be read or is in another format.
    """
    path = None if data_dir is None else data_dir / "ruler" / "sources" / f"{source}.json"
    try:
        rows = hub_records(_HUB[source]) if path is None else json.loads(path.read_text(encoding="utf-8"))
        found = _squad(rows, path is None) if source == "squad" else _hotpotqa(rows, path is None)
    except FileNotFoundError as error:
        fix = f"Put {source}'s development set there, or leave this task out."
        raise DataUnavailableError(str(path), expected=f"{source}'s development set", got="no file", fix=fix) from error
    except OSError as error:
        got = error.strerror or str(error)
        raise TaskError(str(path), expected="a file that can be read", got=got, fix="Check its permissions.") from error
    except (LookupError, TypeError, ValueError) as error:
        what = source if path is None else str(path)
        raise TaskError(what, expected=f"{source}'s format", got=repr(error), fix="Fetch it again.") from error
    if not found.questions:
        raise TaskError(str(path or source), expected="questions with answers", got="none", fix="Fetch it again.")
    return found


def _squad(rows: Any, from_hub: bool) -> Reading:
    """Articles with paragraphs with questions; the hub has one row a question."""
    if from_hub:
        asked = [(row["title"], row["context"], row["question"], row["answers"]["text"]) for row in rows]
    else:
        asked = [
            (article["title"], paragraph["context"], entry["question"], [each["text"] for each in entry["answers"]])
            for article in rows["data"]
            for paragraph in article["paragraphs"]
            for entry in paragraph["qas"]
        ]
    passages, indices = _indexed(context for _, context, _, _ in asked)
    articles: dict[str, set[int]] = {}
    for title, context, _, _ in asked:
        articles.setdefault(title, set()).add(indices[context])
    return Reading(
        passages,
        tuple(
            Question(text, strings(answers), (here := indices[context],), tuple(sorted(articles[title] - {here})))
            for title, context, text, answers in asked
            if answers
        ),
    )


def _hotpotqa(rows: Iterable[dict[str, Any]], from_hub: bool) -> Reading:
    """Questions with ten titled passages each, all of which count as right."""
    kept = []
    for row in rows:
        context = row["context"]
        titled = zip(context["title"], context["sentences"], strict=True) if from_hub else context
        kept.append((row["question"], row["answer"], [f"{title}\n{''.join(lines)}" for title, lines in titled]))
    passages, indices = _indexed(passage for _, _, own in kept for passage in own)
    questions = (
        Question(text, strings(answer), tuple(indices[passage] for passage in own), ()) for text, answer, own in kept
    )
    return Reading(passages, tuple(questions))


def _indexed(passages: Iterable[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    unique = tuple(sorted(set(passages)))
    return unique, {passage: index for index, passage in enumerate(unique)}
