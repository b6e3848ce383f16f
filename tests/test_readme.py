"""The README's Python, word for word, as somebody would run it who has just installed lavakv."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path

import pytest
import transformers
from transformers import LlamaForCausalLM

import lavakv
from tests import readme

BLOCKS = readme.code_blocks(readme.README.read_text(encoding="utf-8"), "python")
HAS_NEW_NAME = "cache" in inspect.signature(LlamaForCausalLM.forward).parameters


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A working folder and an environment for the blocks; skipped where the default model cannot be had."""
    from lavakv.models.default import default_model_dir

    try:
        model_dir = Path(os.environ.get("LAVAKV_TEST_MODEL") or default_model_dir())
    except lavakv.ModelError as error:
        pytest.skip(f"no default model: {error}")
    folder = tmp_path_factory.mktemp("readme")
    return folder, {**os.environ, **readme.prepare(folder, model_dir), "OMP_NUM_THREADS": "1"}


def test_there_is_one_block_that_hands_over_a_cache() -> None:
    (block,) = BLOCKS
    assert {readme.with_keyword(block, name) for name in readme.KEYWORDS} >= {block}
    assert readme.with_keyword(block, "cache") != readme.with_keyword(block, "past_key_values")


def test_blocks_are_read_word_for_word() -> None:
    markdown = "```sh\na\n```\n~~~python\nb\n```\n\n  c\n~~~\n````python\n```\nd\n````\n```\ne\n```\n"
    assert readme.code_blocks(markdown, "python") == ["b\n```\n\n  c\n", "```\nd\n"]


@pytest.mark.real
@pytest.mark.parametrize("keyword", readme.KEYWORDS)
def test_it_runs_and_the_budget_is_exact(keyword: str, place: tuple[Path, dict[str, str]]) -> None:
    """Under either name; one of the two is the block as it stands."""
    if keyword == "cache" and not HAS_NEW_NAME:
        pytest.skip("this transformers has only past_key_values")
    folder, environment = place
    block = readme.with_keyword(BLOCKS[0], keyword)
    outcome = readme.run_block([sys.executable], block, folder, environment)
    assert outcome.transformers == transformers.__version__
    assert outcome.nbytes == readme.exact_bytes(outcome.new_tokens)
    if keyword == "cache":
        assert "past_key_values" not in outcome.stderr
