"""What cannot be evaluated is refused in words, before anything is computed, and no record is touched or moved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import lavakv
from lavakv.evaluation.executor import SerialExecutor
from lavakv.evaluation.folder import locked
from lavakv.evaluation.records import read_records
from lavakv.evaluation.run import Evaluation
from lavakv.models.load import load
from lavakv.tasks import Example
from tests.evaluation import madeup


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Iterator[Path]:
    """A finished run of one's own, which stays where it is."""
    made = Path(shutil.copytree(whole, tmp_path / "run"))
    yield made
    assert not (made / "earlier").exists()


def _edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_folder_of_another_version(out, model_dir) -> None:
    stored = json.loads((out / "run.json").read_text())
    stored["run"]["versions"]["lavakv"] = "0.0.1"
    (out / "run.json").write_text(json.dumps(stored))
    for changes in ({}, {"budgets": (25,)}):
        with pytest.raises(lavakv.ResultsError, match=r"versions.lavakv was 0.0.1, is .* untouched.* or --restart"):
            madeup.run(madeup.settings(model_dir, **changes), out)
    _edit(out / "run.json", schema=0)
    with pytest.raises(lavakv.ResultsError, match=r"schema 0. Another version wrote it"):
        madeup.run(madeup.settings(model_dir), out)


def test_a_task_of_another_version(out, model_dir) -> None:
    with pytest.raises(lavakv.ResultsError, match=r"tasks.echo was paper-1, is paper-2"):
        madeup.run(madeup.settings(model_dir, limit=2), out, madeup.echo(version="paper-2"))


def test_a_device_that_is_another_one_without_being_asked_for(out, model_dir) -> None:
    stored = json.loads((out / "run.json").read_text())
    _edit(out / "run.json", run=stored["run"] | {"device": "cuda"})
    with pytest.raises(lavakv.ResultsError, match="device was cuda, is cpu"):
        madeup.run(madeup.settings(model_dir), out)


def test_a_folder_whose_settings_are_gone_or_torn(out, model_dir) -> None:
    (out / "run.json").write_text('{"schema": 1,')
    with pytest.raises(lavakv.ResultsError, match=r"run.json: expected the results of an evaluation"):
        madeup.run(madeup.settings(model_dir), out)
    (out / "run.json").unlink()
    with pytest.raises(lavakv.ResultsError, match=r"got records.jsonl without run.json"):
        madeup.run(madeup.settings(model_dir), out)


def test_records_of_other_data(out, model_dir) -> None:
    with pytest.raises(lavakv.ResultsError, match="got another prompt for echo, e2"):
        madeup.run(madeup.settings(model_dir), out, madeup.echo(words=61))
    with pytest.raises(lavakv.ResultsError, match="got another prompt for echo, e2"):
        madeup.run(madeup.settings(model_dir), out, madeup.echo(num_examples=2))


def test_records_of_another_policy(out, model_dir) -> None:
    """Put there by hand: they would be lost when the file is put in order."""
    records = read_records(out)
    with (out / "records.jsonl").open("a") as file:
        file.write(json.dumps(records[1] | {"policy": "h2o"}) + "\n")
    with pytest.raises(lavakv.ResultsError, match="got one of h2o, 20, query-aware, for echo, e2"):
        madeup.run(madeup.settings(model_dir), out)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{]\n", "line 4: expected a JSON object, got Expecting property name"),
        (b"7\n", "line 4: expected a JSON object, got int"),
        (b"\xff\n", "line 4: expected a JSON object, got 'utf-8' codec can't decode"),
        (b'{"schema": 2}\n', "line 4: expected a record of schema 1, got schema 2"),
        (b'{"schema": 1}\n', "line 4: expected a whole record, got one without answers, benchmark"),
    ],
)
def test_a_broken_record_is_named(line, complaint, out, model_dir) -> None:
    lines = (out / "records.jsonl").read_bytes().splitlines(keepends=True)
    (out / "records.jsonl").write_bytes(b"".join([*lines[:3], line, *lines[3:]]))
    before = (out / "records.jsonl").read_bytes()
    for use in (lambda: read_records(out), lambda: madeup.run(madeup.settings(model_dir), out)):
        with pytest.raises(lavakv.ResultsError) as caught:
            use()
        assert complaint in str(caught.value)
    assert (out / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        ({"answers": ()}, "task echo, example e0: expected at least one right answer, got none"),
        (
            {"max_new_tokens": 240},
            "task echo: expected a model with enough positions for a prompt, got 256 positions for 240",
        ),
        ({"context": "word1 " * 300}, None),
    ],
)
def test_examples_that_cannot_be_asked(task, complaint, model_dir, tmp_path) -> None:
    def run() -> list[dict]:
        return madeup.run(madeup.settings(model_dir), tmp_path / "run", madeup.echo(**task))

    if complaint is None:  # too long, and cut in the middle
        (record, *_) = run()
        assert record["truncated"]
        assert record["prompt_tokens"] <= 256 - 6
        return
    with pytest.raises(lavakv.LavaError, match=complaint):
        run()
    assert not (tmp_path / "run" / "records.jsonl").exists()


class _Long(madeup.Echo):
    """Generated prompts, which must not be cut."""

    def examples(self, settings: object) -> list[Example]:
        return [Example("echo", name, "word1 " * self.words, "word2", ("word3",), length=300) for name in self.answers]


def _long(*names: str, words: int) -> _Long:
    return _Long("echo", "Made up", "Words", "Share", 6, answers=names, words=words)


@pytest.mark.parametrize("protocol", ["paper", "harness"])
def test_a_prompt_that_must_not_be_cut_and_does_not_fit(protocol, model_dir, tmp_path) -> None:
    with pytest.raises(
        lavakv.InputError, match="expected at most 250 prompt tokens, the model's 256 positions less 6"
    ) as caught:
        madeup.run(madeup.settings(model_dir, protocol=protocol), tmp_path, _long("e0", words=300))
    assert "shorter --lengths" in caught.value.fix
    assert "--protocol" not in caught.value.fix


def test_a_data_set_s_prompt_that_the_harness_s_protocol_does_not_cut(model_dir, tmp_path) -> None:
    with pytest.raises(lavakv.InputError, match="expected at most 250 prompt tokens") as caught:
        madeup.run(madeup.settings(model_dir, protocol="harness"), tmp_path, madeup.echo(context="word1 " * 300))
    assert "--protocol paper" in caught.value.fix


class _Unavailable(madeup.Echo):
    def examples(self, settings: object) -> list[Example]:
        raise lavakv.DataUnavailableError("data set x", expected="to load it", got="no network", fix="Check it.")


def test_data_that_cannot_be_had_is_an_error_but_for_parts_of_ruler(model_dir, tmp_path) -> None:
    executor = SerialExecutor(load(model_dir, dtype="float32", device="cpu"))
    settings = madeup.settings(model_dir, tasks=("echo", "more"))
    for benchmark, skipped in (("LongBench", None), ("RULER", ["more"])):
        more = _Unavailable("more", benchmark, "Words", "Share", 6)
        with locked(tmp_path) as folder:
            try:
                found = Evaluation(settings, {"echo": madeup.echo(), "more": more}, executor, folder)
            except lavakv.DataUnavailableError:
                assert skipped is None
            else:
                assert list(found.skipped) == skipped
                assert len(found.prompts) == 3
    with pytest.raises(lavakv.InputError, match="tasks: expected at least one prompt, got none"):
        madeup.run(settings, tmp_path, more)


def test_two_examples_of_one_name(model_dir, tmp_path) -> None:
    with pytest.raises(lavakv.InputError, match="expected a different name for each example, got 'e0' twice"):
        madeup.run(madeup.settings(model_dir), tmp_path, _long("e0", "e0", words=40))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tasks": ()}, "tasks: expected at least one"),
        ({"budgets": ()}, "budgets: expected at least one"),
        ({"budgets": (20, 20)}, "budgets: expected each one once"),
        ({"mode": "neither"}, "--mode: expected query-aware or query-agnostic or both, got 'neither'"),
        ({"kl": -1}, "--kl: expected a whole number of positions, got -1"),
        ({"max_new_tokens": 0}, "--max-new-tokens: expected at least 1, got 0"),
        ({"protocol": "mine"}, "--protocol: expected paper or harness, got 'mine'"),
        ({"data_dir": "/no/such"}, "--data-dir: expected a folder, got /no/such, which is not one"),
        ({"policies": ("lava", "what")}, "policy: expected"),
        ({"budgets": (0,)}, "budget: expected a whole number of tokens, at least 1, got 0"),
        ({"budgets": (8,)}, "budget: expected more than the window of 8 tokens for a prompt of 84"),
        ({"keep": (1.5,)}, "keep: expected the kept fraction"),
    ],
)
def test_settings_that_cannot_be(changes, complaint, model_dir, tmp_path) -> None:
    with pytest.raises(lavakv.LavaError) as caught:
        madeup.run(madeup.settings(model_dir, **changes), tmp_path / "run")
    assert complaint in str(caught.value)
    assert not (tmp_path / "run" / "records.jsonl").exists()
