"""A tiny random model with a tokenizer of its own, as a directory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [f"word{index}" for index in range(80)]
_TEMPLATE = "{% for message in messages %}<user> {{ message['content'] }} <assistant>{% endfor %}"


def _tokenizer(chat: bool) -> PreTrainedTokenizerFast:
    special = ["<unk>", "<pad>", "<eos>", "<user>", "<assistant>"]
    vocabulary = {word: index for index, word in enumerate(special + WORDS)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<eos>",
        additional_special_tokens=special[3:],
    )
    if chat:
        tokenizer.chat_template = _TEMPLATE
    return tokenizer


def make_model(folder: Path, chat: bool = True, positions: int = 256) -> Path:
    """Save a tiny Llama and its tokenizer."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=85, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=positions, pad_token_id=1, bos_token_id=None, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    _tokenizer(chat).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("tiny-chat")))


@pytest.fixture(scope="session")
def plain_model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("tiny-plain"), chat=False))


@pytest.fixture(scope="session")
def long_prompt() -> str:
    return " ".join(WORDS[index * 7 % 80] for index in range(150))
