"""SmolLM2-135M and what its dense forwards give, shared by all tests on real text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lavakv
from tests.oracle import reference
from tests.real import texts

NUM_DOCSTRING_TOKENS = 1500


@dataclass
class Document:
    """A real text as ids `[1, tokens]`, and its dense prefill."""

    ids: torch.Tensor
    prompt: reference.Prompt


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """Where SmolLM2 lies; the test is skipped where it cannot be had."""
    if "LAVAKV_TEST_MODEL" in os.environ:
        return Path(os.environ["LAVAKV_TEST_MODEL"])
    from lavakv.models.default import default_model_dir

    try:
        return default_model_dir()
    except lavakv.ModelError as error:
        pytest.skip(f"no default model: {error}")


@pytest.fixture(scope="session")
def tokenizer(model_dir: Path):
    return AutoTokenizer.from_pretrained(model_dir)


@pytest.fixture(scope="session")
def model(model_dir: Path):
    loaded = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="sdpa")
    loaded.generation_config.eos_token_id = None  # texts of one length
    return loaded.eval()


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    """One thread: on busy cores a second one waits by spinning, and everything takes thrice as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["record", "docstrings"])
def document(request: pytest.FixtureRequest, model, tokenizer, _threads) -> Document:
    """Each text in turn."""
    text = getattr(texts, request.param)()
    if text is None:
        pytest.skip(f"no shared data: {texts.RECORDS} is absent")
    ids = tokenizer(text, return_tensors="pt").input_ids
    if request.param == "docstrings":
        ids = ids[:, :NUM_DOCSTRING_TOKENS].clone()
    return Document(ids, reference.capture_prompt(model, ids))
