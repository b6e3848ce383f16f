"""Policies of lavakv on a real model and text against the reference of the family: the same survivors.

`test_oracle.py` holds the policies of LAVa itself, on longer texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import lavakv
from tests.oracle import family
from tests.oracle.family_view import View
from tests.oracle.repetition import capture_twice
from tests.real import texts
from tests.real.test_oracle import differences, held_positions

NUM_TOKENS = 800
POLICIES = [name for name in family.POLICIES if not name.startswith("lava")]


@dataclass
class Text:
    """Ids `[1, tokens]` and what each layer saw of them, for the scores in two number formats."""

    ids: torch.Tensor
    layers: list[View]
    precise: list[View]


@pytest.fixture(scope="module")
def text(model, tokenizer) -> Text:
    ids = tokenizer(texts.docstrings(), return_tensors="pt").input_ids[:, :NUM_TOKENS].clone()
    captures = capture_twice(model, ids).captures
    return Text(ids, family.views(captures), family.views(captures, dtype=torch.float64))


def test_every_policy_has_a_reference() -> None:
    assert list(lavakv.policies()) == list(family.POLICIES)


@pytest.mark.parametrize("budget", [64, 256])
@pytest.mark.parametrize("policy", POLICIES)
def test_survivors(model, text: Text, policy: str, budget: int) -> None:
    cache = lavakv.LavaCache(model.config, budget=budget, policy=policy, window=32)  # as the reference's
    with lavakv.enabled(model), torch.no_grad():
        model(text.ids, past_key_values=cache, logits_to_keep=1)
    expected = dict(enumerate(family.survivors(text.layers, policy, budget)))
    different = differences(held_positions(cache), expected)
    if policy == "knorm":
        different = [head for head in different if not _within_rounding(text, *head)]
    assert different == []


def _within_rounding(text: Text, layer: int, head: int, only_kept: list[int], only_expected: list[int]) -> bool:
    """Whether float32 cannot tell the entries apart on which two sets of survivors differ.

    In the first layer the keys of one token differ by their rotation alone and are equally long: of " the", 31 times in
    this text, the lengths are 11.3513624 within 6e-7, less than float32 resolves there. Which of them stay depends on
    the order in which squares are added. So: as many on either side, and their float64 scores no further apart than
    the largest rounding error of the reference's float32 scores of that head.
    """
    score = family.POLICIES["knorm"].score
    rounded, exact = (score(views[layer], 0).scores[head] for views in (text.layers, text.precise))
    error = max(abs(one - other) for one, other in zip(rounded, exact, strict=True))
    disputed = [exact[place] for place in only_kept + only_expected]
    return len(only_kept) == len(only_expected) and max(disputed) - min(disputed) <= error
