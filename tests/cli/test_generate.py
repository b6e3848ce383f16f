"""`lavakv generate` on a tiny model: what it prints, and that it is what the library gives."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lavakv
from lavakv.cli.main import run


def _expected(model_dir: str, text: str, **cache_options: object) -> str:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(model_dir), AutoTokenizer.from_pretrained(model_dir)
    ids = tokenizer(text, return_tensors="pt").input_ids
    with lavakv.enabled(model):
        cache = lavakv.LavaCache(model.config, **cache_options)
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), past_key_values=cache, max_new_tokens=8, do_sample=False
        )
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


def test_streams_the_text_that_the_library_gives(model_dir, long_prompt, capsys) -> None:
    assert run(["generate", long_prompt, "-m", model_dir, "-n", "8", "--budget", "60", "--no-chat"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == _expected(model_dir, long_prompt, budget=60)
    assert "150 prompt tokens, 40.0% of their entries kept" in captured.err


def test_json_is_one_document_with_the_measurements(model_dir, long_prompt, capsys) -> None:
    command = ["generate", long_prompt, "-m", model_dir, "-n", "8", "--keep", "0.5", "--no-chat", "--json"]
    assert run(command) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["text"] == _expected(model_dir, long_prompt, keep=0.5)
    assert record["kept_entries"] == 75 * 2 * 3
    assert record["kept_fraction"] == pytest.approx(0.5)
    assert record["prompt_tokens"] == 150
    assert record["new_tokens"] == 8
    assert record["kv_bytes"] > 0


def test_fewer_bits_give_the_librarys_text_in_fewer_bytes(model_dir, long_prompt, capsys) -> None:
    sizes = []
    for bits in ([], ["--kv-bits", "8"], ["--kv-bits", "4"]):
        assert run(["generate", long_prompt, "-m", model_dir, "-n", "8", "--no-chat", "--json", *bits]) == 0
        record = json.loads(capsys.readouterr().out)
        assert record["text"] == _expected(model_dir, long_prompt, kv_bits=int(bits[1]) if bits else None)
        assert record["kept_fraction"] == 1.0
        sizes.append(record["kv_bytes"])
    survivors = (150 - 32) * 2 * 3  # keys and values of 8 numbers; a scale of 2 bytes each
    assert sizes[0] - sizes[1] == survivors * 2 * (8 * 4 - (8 + 2))
    assert sizes[0] - sizes[2] == survivors * 2 * (8 * 4 - (4 + 2))


@pytest.mark.parametrize("given", ["0.4", "40%"])
def test_a_tolerated_loss_says_what_it_led_to(given, model_dir, long_prompt, capsys) -> None:
    command = ["generate", long_prompt, "-m", model_dir, "-n", "8", "--max-loss", given, "--no-chat"]
    assert run(command) == 0
    told = capsys.readouterr()
    assert told.out.strip() == _expected(model_dir, long_prompt, max_loss=0.4)
    assert run([*command, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert 33 <= record["tokens_per_head"] == record["kept_entries"] / 6 < 150
    assert 0.3 < record["relative_loss"] <= 0.4
    assert record["budget"] == "loss 0.4"
    found = f"({record['tokens_per_head']:g} tokens per head, estimated loss {record['relative_loss']:.1%})"
    assert found in told.err


def test_full_cache_keeps_everything(model_dir, long_prompt, capsys) -> None:
    assert run(["generate", long_prompt, "-m", model_dir, "-n", "4", "--full-cache", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["kept_fraction"] == 1.0
    assert (record["tokens_per_head"], record["relative_loss"]) == (record["prompt_tokens"], 0.0)


def test_chat_template_is_used_unless_told_otherwise(model_dir, plain_model_dir, capsys) -> None:
    lengths = []
    for arguments in (["-m", model_dir], ["-m", model_dir, "--no-chat"], ["-m", plain_model_dir]):
        assert run(["generate", "word1 word2", "-n", "1", "--json", *arguments]) == 0
        lengths.append(json.loads(capsys.readouterr().out)["prompt_tokens"])
    assert lengths == [4, 2, 2]


def test_prompt_from_file_stdin_and_both(model_dir, tmp_path: Path, monkeypatch, capsys) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("word1 word2 word3")
    command = ["generate", "-m", model_dir, "-n", "1", "--json", "--no-chat"]
    lengths = []
    for extra in (["--file", str(file)], ["word9", "--file", str(file)], []):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"word4 word5")))
        assert run([*command, *extra]) == 0
        lengths.append(json.loads(capsys.readouterr().out)["prompt_tokens"])
    assert lengths == [3, 4, 2]


def test_sampling_follows_the_seed(model_dir, capsys) -> None:
    texts = []
    for seed in (1, 1, 2):
        command = ["generate", "word1 word2", "-m", model_dir, "-n", "12", "--temperature", "2", "--seed", str(seed)]
        assert run([*command, "--json"]) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1] != texts[2]


def test_the_prefill_is_shown_until_the_first_text(model_dir, long_prompt, monkeypatch) -> None:
    events: list[str] = []

    @contextmanager
    def working(what: str) -> Iterator[None]:
        events.append(what)
        yield
        events.append("done")

    monkeypatch.setattr("lavakv.cli.generate.working", working)
    monkeypatch.setattr("lavakv.cli.generate.typer.echo", lambda *_, **__: events.append("text"))
    assert run(["generate", long_prompt, "-m", model_dir, "-n", "8", "--no-chat"]) == 0
    assert events[:3] == ["Reading 150 tokens", "done", "text"]
    assert events.count("done") == 1
    events.clear()
    assert run(["generate", long_prompt, "-m", model_dir, "-n", "8", "--no-chat", "--json"]) == 0
    assert events == ["Reading 150 tokens", "done", "text"]


def test_it_is_quiet_where_stderr_is_no_terminal(model_dir, long_prompt, capsys) -> None:
    assert run(["generate", long_prompt, "-m", model_dir, "-n", "2", "--no-chat"]) == 0
    assert capsys.readouterr().err.count("\n") == 1
    assert run(["generate", long_prompt, "-m", model_dir, "-n", "2", "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_keep_takes_a_percentage(model_dir, long_prompt, capsys) -> None:
    records = []
    for keep in ("25%", "0.25"):
        assert run(["generate", long_prompt, "-m", model_dir, "-n", "2", "--no-chat", "--keep", keep, "--json"]) == 0
        records.append(json.loads(capsys.readouterr().out))
    assert records[0]["budget"] == records[1]["budget"] == "25%"
    assert records[0]["kept_entries"] == records[1]["kept_entries"] == 38 * 2 * 3
