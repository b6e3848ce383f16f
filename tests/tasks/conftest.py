"""A small tokenizer that knows every byte, and the folder of data slices."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lavakv.tasks.haystack import haystack_text
from tests.tasks.made_up import CHAT_TEMPLATE


def _trained() -> Tokenizer:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    raw.train_from_iterator([haystack_text(None, 0)[:20_000]], trainer)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return raw


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs, with a token that starts every text."""
    return PreTrainedTokenizerFast(tokenizer_object=_trained(), bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def chat_tokenizer() -> PreTrainedTokenizerFast:
    """The same with a chat template of 40 tokens or so."""
    made = PreTrainedTokenizerFast(tokenizer_object=_trained(), bos_token="<s>", eos_token="</s>")
    made.chat_template = CHAT_TEMPLATE
    return made


@pytest.fixture(scope="session")
def slices() -> Path:
    """Real records, where the session has them."""
    folder = Path(os.environ.get("LAVAKV_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no data slices: set LAVAKV_DATA to their folder")
    return folder
