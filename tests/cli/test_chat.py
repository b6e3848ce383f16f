"""`lavakv chat` on a tiny model: what it prints, that turns go on from each other, and that the cache stays bounded."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, DynamicCache

from lavakv.cli.main import run
from lavakv.evaluation.answer import Sampling
from lavakv.evaluation.conversation import Conversation
from lavakv.hf import LavaCache
from lavakv.hf.contract import cache_argument
from lavakv.models.chat import ChatTemplate
from lavakv.models.load import LoadedModel, load
from tests.cli.conftest import WORDS, make_model
from tests.errors import assert_all_parts

CLOSING = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] | trim }} <eos> "
    "{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)
MESSAGES = [" ".join(WORDS[start : start + 20]) for start in (0, 20, 40)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A tiny model whose template closes every message with the token that ends answers."""
    found = load(str(make_model(tmp_path_factory.mktemp("chat"))), dtype="auto", device="auto", attention=None)
    found.tokenizer.chat_template = CLOSING
    return found


def _conversation(loaded: LoadedModel, budget: int = 1000, system: str = "", tokens: int = 6, **settings: object):
    def new_cache(protect: int) -> LavaCache:
        return LavaCache(loaded.model.config, budget, window=8, evict="turns", protect=protect, **settings)

    return Conversation(loaded, new_cache, Sampling(tokens), system=system)


def test_turns_equal_one_text_with_the_full_cache(loaded: LoadedModel) -> None:
    conversation = _conversation(loaded, system="word70 word71")
    for message in MESSAGES:
        turn = conversation.ask(message)
        assert turn.tokens_per_head == turn.tokens_seen
    said = torch.tensor([conversation._ids])
    text = loaded.tokenizer.decode(said[0])
    for message in MESSAGES:
        assert text.count(f"<user> {message} <eos> <assistant>") == 1
    with torch.no_grad():
        cache = DynamicCache(config=loaded.model.config)
        logits = loaded.model(said, **cache_argument(loaded.model, cache)).logits
    last = len(conversation._ids)
    answer = ChatTemplate(loaded.tokenizer).ids(turn.text, starts_prompt=False)
    assert logits[0, last - len(answer) - 1 : last - 1].argmax(-1).tolist() == answer


def test_an_answer_that_ended_itself_is_closed_once(loaded: LoadedModel) -> None:
    conversation = _conversation(loaded)
    end = loaded.tokenizer.eos_token_id
    assert conversation._said([7, 8, end]) == [7, 8]
    assert conversation._said([7, 8]) == [7, 8]
    assert conversation._said([]) == []
    conversation._ids = [*ChatTemplate(loaded.tokenizer).ids(MESSAGES[0]), 7, 8]
    rest = ChatTemplate(loaded.tokenizer).following("word1")
    assert rest == " <eos> <user> word1 <eos> <assistant> "


def test_within_budget_after_every_message_and_the_system_message_stays(loaded: LoadedModel) -> None:
    conversation = _conversation(loaded, budget=30, system="word70 word71 word72")
    for message in MESSAGES:
        turn = conversation.ask(message)
        assert turn.tokens_per_head <= 30 + turn.new_tokens
        for layer in conversation.cache.layer_indices:
            for head in range(2):
                assert conversation.cache.kept_positions(layer, 0, head)[:5].tolist() == list(range(5))
    assert turn.tokens_seen > 70
    assert turn.kv_bytes == conversation.cache.nbytes


def test_a_bound_holds_inside_answers(loaded: LoadedModel) -> None:
    conversation = _conversation(loaded, budget=24, tokens=40, max_tokens_per_head=30)
    for message in MESSAGES[:2]:
        assert conversation.ask(message).tokens_per_head < 30


def test_a_template_without_system_messages_says_so(loaded: LoadedModel) -> None:
    refusing = AutoTokenizer.from_pretrained(loaded.tokenizer.name_or_path)
    refusing.chat_template = "{{ raise_exception('only users') if messages[0]['role'] == 'system' else 'x' }}"
    with pytest.raises(Exception, match="chat template: expected a template for system") as caught:
        ChatTemplate(refusing).wrap("word1", system="word2")
    assert_all_parts(caught.value, got="a template that fails: only users")
    with pytest.raises(Exception, match="chat template") as caught:
        ChatTemplate(refusing).following("word1")
    assert_all_parts(caught.value, got="a template without the text of earlier answers")


def _run(monkeypatch: pytest.MonkeyPatch, lines: str, *arguments: str) -> int:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    return run(["chat", "--window", "8", "-n", "4", *arguments])


def test_lines_of_stdin_are_messages(model_dir, monkeypatch, capsys) -> None:
    lines = f"{MESSAGES[0]}\n\n{MESSAGES[1]}\n/quit\n{MESSAGES[2]}\n"
    assert _run(monkeypatch, lines, "-m", model_dir, "--budget", "20") == 0
    captured = capsys.readouterr()
    assert captured.err.count("tokens seen") == 2
    assert len(captured.out.strip().splitlines()) == 2
    assert "first token after" in captured.err


def test_json_has_a_record_a_turn(model_dir, monkeypatch, capsys) -> None:
    assert _run(monkeypatch, "\n".join(MESSAGES), "-m", model_dir, "--keep", "50%", "--json") == 0
    turns = json.loads(capsys.readouterr().out)["turns"]
    assert [turn["new_tokens"] for turn in turns] == [4, 4, 4]
    assert turns[0]["tokens_seen"] < turns[1]["tokens_seen"] < turns[2]["tokens_seen"]
    assert turns[-1]["tokens_per_head"] < 0.7 * turns[-1]["tokens_seen"]


def test_without_a_template_texts_follow_each_other(plain_model_dir, monkeypatch, capsys) -> None:
    assert _run(monkeypatch, "\n".join(MESSAGES), "-m", plain_model_dir, "--budget", "20", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["turns"]) == 3


def test_a_chat_beyond_the_model_s_positions_ends_with_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    folder = make_model(tmp_path / "short", positions=48)
    assert _run(monkeypatch, "\n".join(MESSAGES), "-m", str(folder), "--budget", "20") == 2
    assert "fewer than 48 tokens, the model's positions" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "20", "--max-tokens-per-head", "20"], "max_tokens_per_head: expected"),
        (["--budget", "0"], "budget: expected"),
        (["--budget", "9", "--keep", "0.5"], "budget and keep"),
        (["--policy", "lavish"], "--policy: expected"),
        (["--policy", "kvzip"], "policy 'kvzip': expected a policy that scores what an earlier round has left"),
        (["--system", "a", "--file", "b"], "--system: expected a text or a file"),
        (["--file", "nowhere.txt"], "--file: expected a text file"),
        (["--temperature", "nan"], "--temperature"),
        (["--budget", "12", "--system", " ".join(WORDS[:20])], "protect: expected"),
    ],
)
def test_bad_input_is_one_line(model_dir, monkeypatch, capsys, arguments: list[str], said: str) -> None:
    assert _run(monkeypatch, MESSAGES[0], "-m", model_dir, "--no-chat", *arguments) == 2
    lines = [line for line in capsys.readouterr().err.strip().splitlines() if "tokens seen" not in line]
    assert said in " ".join(lines)
