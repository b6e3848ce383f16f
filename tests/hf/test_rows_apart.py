"""Rows of a batch do not touch each other: padding, not-a-number and infinity stay in the row where they arise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lavakv
from tests.hf import zoo
from tests.hf.helpers import lava_cache

IDS, NEW = zoo.prompt(40, batch=3), zoo.prompt(5, batch=3, seed=2)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
POLICIES = ["lava", "snapkv", "h2o", "residual", "layer-defensivekv"]


def _mask(count: int, padded_row: int | None) -> Tensor:
    mask = torch.ones(3, 40 + count, dtype=torch.long)
    mask[0, :11] = 0
    if padded_row is not None:
        mask[padded_row, 40:] = 0
    return mask


@torch.no_grad()
def _logits(model: nn.Module, cache: object, count: int, padded_row: int | None = None) -> Tensor:
    prompt, whole = _mask(0, None), _mask(count, padded_row)
    model(IDS, attention_mask=prompt, position_ids=(prompt.cumsum(-1) - 1).clamp(min=0), past_key_values=cache)
    positions = (whole.cumsum(-1) - 1)[:, -count:].clamp(min=0)
    return model(NEW[:, :count], attention_mask=whole, position_ids=positions, past_key_values=cache).logits


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("store", ["ragged", "masked"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_a_row_whose_only_new_tokens_are_padding(kind: str, dtype: torch.dtype, store: str, count: int) -> None:
    model = lavakv.enable(zoo.tiny(kind, dtype))
    sound = _logits(model, lava_cache(model, store=store), count)
    for row in (0, 2):
        others = [index for index in range(3) if index != row]
        padded = _logits(model, lava_cache(model, store=store), count, padded_row=row)
        assert padded.isfinite().all()
        bound = 0 if dtype == torch.float64 else 8 * torch.finfo(dtype).eps * float(sound.abs().max())
        assert float((padded[others] - sound[others]).abs().max()) <= bound  # a mask where there was none


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@torch.no_grad()
def test_a_row_that_has_gone_wrong_since_the_prompt(number: float, policy: str) -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    answers = []
    for wrong in (False, True):
        cache = lava_cache(model, policy=policy)
        model(IDS, past_key_values=cache)
        embeddings = model.get_input_embeddings()(NEW)
        if wrong:
            embeddings[1, 2] = number
        answers.append([model(inputs_embeds=part, past_key_values=cache).logits for part in embeddings.split(1, dim=1)])
    sound, broken = (torch.cat(parts, dim=1) for parts in answers)
    assert broken[[0, 2]].equal(sound[[0, 2]])
    assert not bool(broken[1, 2:].isfinite().any())


@pytest.mark.parametrize("policy", POLICIES)
@torch.no_grad()
def test_a_prompt_that_has_gone_wrong_is_refused(policy: str) -> None:
    """Its scores would rank nothing: the forward fails by name, and the cache is empty."""
    model = lavakv.enable(zoo.tiny("llama"))
    embeddings = model.get_input_embeddings()(IDS)
    embeddings[1, 20] = torch.nan
    cache = lava_cache(model, policy=policy)
    with pytest.raises(lavakv.PolicyError, match="NaN or infinity"):
        model(inputs_embeds=embeddings, past_key_values=cache)
    assert cache.get_seq_length() == 0
