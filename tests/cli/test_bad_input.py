"""Bad input at the command line: one clear line on stderr, exit code 2, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

import lavakv
from lavakv.cli.guard import guarded
from lavakv.cli.main import run

_HERE = str(Path(__file__).parent)
CASES = {
    "fraction of a budget": (["hi", "--budget", "2.5"], "--budget"),
    "budget zero": (["hi", "--budget", "0"], "budget: expected a whole number of tokens, at least 1, got 0"),
    "negative budget": (["hi", "--budget", "-3"], "budget: expected"),
    "two budgets": (["hi", "--budget", "99", "--keep", "0.5"], "budget and keep: expected one way"),
    "keep beyond one": (["hi", "--keep", "1.5"], "keep: expected"),
    "loss of all": (["hi", "--max-loss", "1"], "--max-loss: expected"),
    "loss in words": (["hi", "--max-loss", "little"], "--max-loss: expected"),
    "loss below zero": (["hi", "--max-loss=-5%"], "--max-loss: expected"),
    "loss and budget": (["hi", "--max-loss", "5%", "--budget", "99"], "budget and max_loss: expected one way"),
    "loss and full cache": (["hi", "--max-loss", "5%", "--full-cache"], "--full-cache: expected no budget"),
    "bytes in words": (["hi", "--max-bytes", "lots"], "max_bytes: expected"),
    "too few bytes": (["hi", "--max-bytes", "10"], "max_bytes: expected at least"),
    "unknown policy": (["hi", "--policy", "snap"], "--policy: expected one of lava"),
    "no text": (["  "], "prompt: expected some text"),
    "missing file": (["--file", "/no/such/file"], "--file: expected a text file"),
    "unknown dtype": (["hi", "--dtype", "int4"], "dtype: expected"),
    "unknown device": (["hi", "--device", "abacus"], "device: expected"),
    "too long": (["word1 " * 300], "expected fewer than 256 tokens, the model's positions, got 302"),
    "unknown option": (["hi", "--wat"], "--wat"),
    "bytes that are no text": (["\udcff\udcfe"], "prompt: expected UTF-8 text"),
    "bits that there are not": (["hi", "--kv-bits", "3"], "--kv-bits: expected 8, 4 or None"),
    "bits for the full cache": (["hi", "--full-cache", "--kv-bits", "4"], "--full-cache: expected no budget"),
    "a budget for the full cache": (["hi", "--full-cache", "--budget", "9"], "--full-cache: expected no budget"),
    "a seed beyond 64 bits": (["hi", "--seed", "9" * 25], "--seed"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_generate_options(case, model_dir, capsys) -> None:
    arguments, complaint = CASES[case]
    assert run(["generate", "-m", model_dir, *arguments]) == 2
    captured = capsys.readouterr()
    assert complaint in " ".join(captured.err.split())
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_budget_within_the_window_of_a_longer_prompt(model_dir, long_prompt, capsys) -> None:
    assert run(["generate", long_prompt, "-m", model_dir, "-n", "1", "--budget", "32"]) == 2
    assert "budget: expected more than the window of 32 tokens for a prompt of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("/no/such/model", "got nothing of that name"),
        ("./nothing.gguf", "got nothing of that name"),
        (_HERE, "got a directory without config.json"),
        (__file__, "expected a GGUF file"),
    ],
)
def test_models_that_are_none(model, complaint, capsys) -> None:
    assert run(["generate", "hi", "-m", model]) == 2
    assert complaint in capsys.readouterr().err


def test_weights_that_are_damaged(model_dir, tmp_path, capsys) -> None:
    for file in Path(model_dir).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    assert run(["generate", "hi", "-m", str(tmp_path)]) == 2
    assert "expected a causal language model that transformers can load" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--budgets", "50,x"], "--budgets: expected whole numbers separated by commas"),
        (["--keep", "0.5,,1"], "--keep: expected a kept fraction"),
        (["--policies", "lava,what"], "--policies: expected one of lava"),
        (["--budgets", "0"], "budget: expected"),
        (["--policies", "lava,lava", "--keep", "0.5"], "policies: expected each one once, got lava, lava"),
        (["--budgets", "40,50,40"], "budgets: expected each one once, got 40, 50, 40"),
        (["--keep", "0.5,0.5"], "keep: expected each one once, got 0.5, 0.5"),
    ],
)
def test_bad_compare_options(arguments, complaint, model_dir, capsys) -> None:
    assert run(["compare", "hi", "-m", model_dir, *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_an_unexpected_failure_is_exit_code_1(model_dir, capsys, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the disk\nis on fire")

    monkeypatch.setattr("lavakv.evaluation.answer.answer", broken)
    assert run(["generate", "hi", "-m", model_dir]) == 1
    assert "RuntimeError: the disk" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "code"),
    [(lavakv.DiskError, 1), (lavakv.WorkerError, 1), (lavakv.ResultsError, 2), (lavakv.UnsupportedError, 2)],
)
def test_a_failed_run_is_not_bad_input(kind, code, capsys) -> None:
    def failing() -> None:
        raise kind("a", expected="b", got="c", fix="d.")

    assert guarded(failing) == code
    assert capsys.readouterr().err == "lavakv: a: expected b, got c. d.\n"


def test_interruption_is_exit_code_130(model_dir, capsys, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lavakv.evaluation.answer.answer", interrupted)
    assert run(["generate", "hi", "-m", model_dir]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_no_stdin(model_dir, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert run(["generate", "-m", model_dir]) == 2
    assert "prompt: expected text, got none" in capsys.readouterr().err


def test_budgets_are_checked_before_a_model_is_loaded(capsys) -> None:
    assert run(["generate", "hi", "-m", "/no/such/model", "--keep", "7"]) == 2
    assert "keep: expected" in capsys.readouterr().err
