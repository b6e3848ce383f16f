"""`lavakv compress` and `lavakv generate --context`: questions of a text that is not read again."""

from __future__ import annotations

import copy
import inspect
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import lavakv
from lavakv.cli.main import run
from lavakv.evaluation.encode import encode_context, encode_parts, encode_question
from lavakv.eviction.saved_header import read_header
from lavakv.models.load import load
from tests.cli.conftest import WORDS
from tests.hf import zoo

QUESTIONS = [" ".join(WORDS[index : index + 3]) for index in range(0, 30, 3)]


@pytest.fixture
def text(tmp_path: Path, long_prompt: str) -> str:
    file = tmp_path / "text.txt"
    file.write_text(long_prompt)
    return str(file)


@pytest.fixture(scope="module")
def attentive_dir(model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same model with weights so large that its answers depend on the question."""
    folder = tmp_path_factory.mktemp("attentive")
    zoo.with_large_weights(AutoModelForCausalLM.from_pretrained(model_dir)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def saved(text: str, tmp_path: Path, model_dir: str, capsys: pytest.CaptureFixture[str]) -> str:
    """A saved context of the model with a chat template."""
    file = str(tmp_path / "ctx.safetensors")
    assert run(["compress", text, "-o", file, "-m", model_dir, "--budget", "60"]) == 0
    capsys.readouterr()
    return file


def _asked(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run(["generate", *arguments, "-n", "8", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("chat", [True, False])
def test_ten_calls_give_what_copies_in_one_process_give(
    chat: bool, text: str, tmp_path: Path, attentive_dir: str, long_prompt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "ctx.safetensors")
    options = ["--keep", "40%", "--policy", "snapkv", *([] if chat else ["--no-chat"])]
    assert run(["compress", text, "-o", file, "-m", attentive_dir, *options]) == 0
    capsys.readouterr()
    got = [_asked([question, "--context", file, "-m", attentive_dir], capsys)["text"] for question in QUESTIONS]

    model, tokenizer = AutoModelForCausalLM.from_pretrained(attentive_dir), AutoTokenizer.from_pretrained(attentive_dir)
    context = encode_context(tokenizer, long_prompt, chat=chat)
    cache, expected = lavakv.LavaCache(model.config, keep=0.4, policy="snapkv"), []
    with lavakv.enabled(model), torch.no_grad():
        model(context, past_key_values=cache)
        for question in QUESTIONS:
            ids = torch.cat([context, encode_question(tokenizer, question, chat=chat)], dim=1)
            output = model.generate(ids, past_key_values=copy.deepcopy(cache), max_new_tokens=8, do_sample=False)
            expected.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip())
    assert got == expected
    assert len(set(got)) > 5


def test_the_context_is_not_read_again(saved: str, model_dir: str, monkeypatch, capsys) -> None:
    """Only the question goes through the model, then one token after the other."""
    lengths, forward = [], LlamaForCausalLM.forward

    def counted(self: Any, input_ids: Any = None, **kwargs: Any) -> Any:
        lengths.append(input_ids.shape[1])
        return forward(self, input_ids=input_ids, **kwargs)

    counted.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
    record = _asked(["word1 word2", "--context", saved, "-m", model_dir], capsys)
    assert lengths == [3] + [1] * (record["new_tokens"] - 1)
    assert record["prompt_tokens"] == 151 + 3
    assert record["kept_entries"] == 60 * 2 * 3
    assert record["kept_fraction"] == pytest.approx(60 / 151)
    assert (record["policy"], record["budget"], record["context"]) == ("reach", "60", saved)


def test_context_and_question_are_the_prompt_in_one_piece(model_dir: str, plain_model_dir: str) -> None:
    for folder in (model_dir, plain_model_dir):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        parts = encode_parts(tokenizer, "word1 word2", ["word3"])
        assert parts[0].equal(encode_context(tokenizer, "word1 word2"))
        assert parts[1][0].equal(encode_question(tokenizer, "word3"))


def test_json_of_compress_says_what_was_kept(text: str, tmp_path: Path, model_dir: str, capsys) -> None:
    file = tmp_path / "new" / "ctx.safetensors"
    assert run(["compress", text, "-o", str(file), "-m", model_dir, "--keep", "0.5", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["tokens"] == 151
    assert record["kept_entries"] == round(151 * 0.5) * 2 * 3
    assert record["kept_fraction"] == pytest.approx(0.5, abs=0.01)
    assert record["file_bytes"] == file.stat().st_size
    assert (record["file"], record["policy"], record["budget"]) == (str(file), "reach", "50%")
    assert read_header("x", file).notes == {"chat": True, "model": model_dir}


def test_the_file_s_name_is_on_stdout_and_the_rest_on_stderr(text: str, tmp_path: Path, model_dir: str, capsys) -> None:
    file = str(tmp_path / "ctx.safetensors")
    assert run(["compress", text, "-o", file, "-m", model_dir, "--budget", "60"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{file}\n"
    assert captured.err.startswith("reach: 151 tokens, 39.7% of their entries kept")
    assert run(["generate", "word1", "--context", file, "-m", model_dir, "-n", "2"]) == 0
    assert "reach: 153 prompt tokens, 39.7% of the context's entries kept" in capsys.readouterr().err


def test_a_long_question_is_no_reason_for_a_warning(saved: str, model_dir: str, capsys, recwarn) -> None:
    assert run(["generate", "word1 " * 70, "--context", saved, "-m", model_dir, "-n", "2", "--json"]) == 0
    assert [each for each in recwarn if "lavakv" in str(each.message)] == []


def test_text_from_stdin(tmp_path: Path, model_dir: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"word4 word5")))
    file = str(tmp_path / "ctx.safetensors")
    assert run(["compress", "-", "-o", file, "-m", model_dir, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 3


def test_a_context_saved_in_python_is_asked_as_plain_text(plain_model_dir: str, tmp_path: Path, capsys) -> None:
    loaded = load(plain_model_dir, dtype="float32", device="cpu")
    ids = loaded.tokenizer("word1 word2 word3 word4", return_tensors="pt").input_ids
    cache, file = lavakv.LavaCache(loaded.model.config, budget=3, window=1), tmp_path / "ctx.safetensors"
    with lavakv.enabled(loaded.model), torch.no_grad():
        loaded.model(ids, past_key_values=cache)
    cache.save(file)
    record = _asked(["word7", "--context", str(file), "-m", plain_model_dir], capsys)
    assert (record["prompt_tokens"], record["policy"], record["kept_entries"]) == (5, "lava", 3 * 2 * 3)


def test_the_dtype_is_that_of_the_context(text: str, tmp_path: Path, model_dir: str, capsys) -> None:
    file = str(tmp_path / "ctx.safetensors")
    assert run(["compress", text, "-o", file, "-m", model_dir, "--dtype", "bfloat16"]) == 0
    capsys.readouterr()
    _asked(["word7", "--context", file, "-m", model_dir], capsys)
    assert run(["generate", "word7", "--context", file, "-m", model_dir, "--dtype", "float32"]) == 2
    assert "--dtype: expected bfloat16, in which the context was computed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "named"),
    [
        (["--budget", "60"], "--budget"),
        (["--keep", "25%"], "--keep"),
        (["--max-bytes", "1MB"], "--max-bytes"),
        (["--policy", "lava"], "--policy"),
        (["--window", "32"], "--window"),
        (["--full-cache"], "--full-cache"),
        (["--no-chat"], "--chat"),
    ],
)
def test_what_was_decided_before_is_refused(option: list[str], named: str, saved: str, model_dir: str, capsys) -> None:
    assert run(["generate", "word1", "--context", saved, "-m", model_dir, *option]) == 2
    assert f"{named}: expected nothing beside --context" in capsys.readouterr().err


def test_a_changed_file_and_other_weights(saved: str, model_dir: str, tmp_path: Path, capsys) -> None:
    whole = Path(saved).read_bytes()
    Path(saved).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert run(["generate", "word1", "--context", saved, "-m", model_dir]) == 2
    assert "--context: expected a context as `LavaCache.save`" in capsys.readouterr().err
    Path(saved).write_bytes(whole)
    other = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        other.model.norm.weight *= 2
    other.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(model_dir).save_pretrained(tmp_path / "other")
    assert run(["generate", "word1", "--context", saved, "-m", str(tmp_path / "other")]) == 2
    assert "got one of this architecture with other weights" in capsys.readouterr().err


def test_a_question_beyond_the_positions(saved: str, model_dir: str, capsys) -> None:
    assert run(["generate", "word1 " * 110, "--context", saved, "-m", model_dir]) == 2
    assert "prompt: expected fewer than 256 tokens, the model's positions, got 262" in capsys.readouterr().err


def test_a_text_that_leaves_no_position_for_a_question(tmp_path: Path, model_dir: str, capsys) -> None:
    (tmp_path / "long.txt").write_text("word1 " * 255)
    file = tmp_path / "ctx.safetensors"
    assert run(["compress", str(tmp_path / "long.txt"), "-o", str(file), "-m", model_dir]) == 2
    assert "prompt: expected fewer than 256 tokens" in capsys.readouterr().err
    assert not file.exists()
