"""A run with other settings restarts, and whatever happens meanwhile, the old one is whole in one place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import lavakv
from lavakv.evaluation.archive import undo_partial_archive
from lavakv.evaluation.differences import can_restart, differences
from lavakv.evaluation.folder import locked
from lavakv.evaluation.records import read_records
from tests.evaluation import madeup

_FILES = ("records.jsonl", "run.json")


class _Killed(BaseException):
    """Stands for a kill: nobody catches it."""


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def _is_in(place: Path, whole: Path) -> bool:
    return all((place / n).is_file() and (place / n).read_bytes() == (whole / n).read_bytes() for n in _FILES)


@pytest.mark.parametrize(
    "changes",
    [{"budgets": (20, 40)}, {"policies": ("lava",)}, {"window": 9}, {"limit": 2}, {"mode": "query-agnostic"}],
)
def test_a_changed_setting_starts_anew(changes, out, model_dir, whole, tmp_path) -> None:
    madeup.run(madeup.settings(model_dir, **changes), out)
    assert _is_in(out / "earlier" / "1", whole)
    alone = madeup.run(madeup.settings(model_dir, **changes), tmp_path / "alone")
    assert [(r["policy"], r["prediction"]) for r in read_records(out)] == [
        (r["policy"], r["prediction"]) for r in alone
    ]
    madeup.run(madeup.settings(model_dir, **changes), out)
    assert not (out / "earlier" / "2").exists()


def test_asked_for_the_same_run_starts_anew_too(out, model_dir, whole) -> None:
    madeup.run(madeup.settings(model_dir), out, restart=True)
    assert _is_in(out / "earlier" / "1", whole)
    with locked(out) as folder:
        assert folder.archive() == out / "earlier" / "2"
        assert folder.archive() is None


@pytest.mark.parametrize(
    ("changed", "restart"),
    [
        ({"run.arguments.window": 9}, True),
        ({"run.arguments.dtype": "bfloat16", "run.dtype": "bfloat16"}, True),
        ({"run.arguments.tasks": ["b"], "tasks.b": "paper-1"}, True),
        ({"run.device": "cuda"}, False),
        ({"run.passed": ["window"]}, False),
        ({"run.arguments.window": 9, "run.versions.torch": "2"}, False),
        ({"run.arguments.window": 9, "tasks.a": "paper-2"}, False),
        ({"schema": 2, "run.arguments.window": 9}, False),
    ],
)
def test_what_counts_as_a_changed_setting(changed, restart) -> None:
    def described(values: dict) -> dict:
        names = ("window", "dtype", "tasks")
        return {
            "schema": values.get("schema", 1),
            "tasks": {"a": values.get("tasks.a", "paper-1")} | ({"b": "paper-1"} if "tasks.b" in values else {}),
            "run": {name: values.get(f"run.{name}") for name in ("dtype", "device", "passed")}
            | {"arguments": {name: values.get(f"run.arguments.{name}") for name in names}}
            | {"versions": {"torch": values.get("run.versions.torch", "1")}},
        }

    found = list(differences(described({}), described(changed)))
    assert len(found) == len([name for name in changed if name != "run.passed"])
    assert can_restart(found) is restart


def test_killed_at_any_step_of_archiving(out, whole, tmp_path, monkeypatch) -> None:
    """After each number of steps in turn; the next run finds the old one whole, here or archived."""
    steps, left = 0, 1000

    def counted(name: str) -> None:
        done = getattr(Path, name)

        def step(path: Path, *arguments: object, **options: object) -> object:
            nonlocal steps
            if steps == left:
                raise _Killed
            steps += 1
            return done(path, *arguments, **options)

        monkeypatch.setattr(Path, name, step)

    for name in ("mkdir", "replace", "rename", "rmdir"):
        counted(name)
    places = []
    for left in range(20):
        place, steps = tmp_path / str(left), -1000
        shutil.copytree(whole, place)
        with locked(place) as folder:
            steps = 0
            try:
                folder.archive()
            except _Killed:
                steps = -1000
                assert not (place / "earlier" / "1").exists() or _is_in(place / "earlier" / "1", whole)
            else:
                break
        steps = -1000
        with locked(place) as folder:
            here, aside = _is_in(place, whole), _is_in(place / "earlier" / "1", whole)
            assert here != aside
            places.append(here)
            assert folder.archive() == (place / "earlier" / "1" if here else None)
            assert _is_in(place / "earlier" / "1", whole)
    assert len(places) > len(_FILES) + 1
    assert places[0]


def test_what_was_half_moved_is_brought_back_beside_newer_files(out, whole) -> None:
    """Also where bringing back is itself cut short, and where someone has written the file again meanwhile."""
    unfinished = out / "earlier" / ".unfinished"
    unfinished.mkdir(parents=True)
    (out / "records.jsonl").rename(unfinished / "records.jsonl")
    shutil.copy(out / "run.json", unfinished / "run.json")
    (unfinished / "run.json").write_text("older")
    undo_partial_archive(out)
    assert _is_in(out, whole)
    assert (out / "earlier" / "1" / "run.json").read_text() == "older"
    assert not unfinished.exists()


def test_a_folder_that_files_cannot_be_moved_in(out, whole, model_dir) -> None:
    (out / "earlier").write_text("a file")
    with pytest.raises(lavakv.ResultsError, match="expected a file that can be written"):
        madeup.run(madeup.settings(model_dir, window=9), out)
    assert _is_in(out, whole)
