"""Left-padded batches: every row as if it were alone.

In float64, so that rounding plays no part. With eager attention, where transformers' own prefill of a padded batch is
NaN in float64 (the mask's lowest float64 overflows in its float32 softmax), in float32.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lavakv
from tests.hf import zoo
from tests.hf.helpers import BUDGET, WINDOW, lava_cache

LENGTHS = [70, 45, BUDGET, BUDGET - 4, WINDOW, WINDOW - 3, 1]
NEW = 10
PAD = 0
DTYPES = {"sdpa": torch.float64, "eager": torch.float32}


def _rows() -> list[Tensor]:
    return [zoo.prompt(length, seed=length) for length in LENGTHS]


def _padded(rows: list[Tensor]) -> dict[str, Tensor]:
    longest = max(row.shape[1] for row in rows)
    ids = torch.full((len(rows), longest), PAD)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, longest - row.shape[1] :] = row[0]
        mask[index, longest - row.shape[1] :] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _generate(model: nn.Module, inputs: dict[str, Tensor], cache: lavakv.LavaCache, **options: object) -> Tensor:
    text = model.generate(
        **inputs, past_key_values=cache, max_new_tokens=NEW, do_sample=False, pad_token_id=PAD, **options
    )
    return text[:, inputs["input_ids"].shape[1] :]


def compare_with_rows_alone(model: nn.Module, settings: dict[str, object], **options: object) -> None:
    """Generate for all rows at once and for each alone; compare text, kept positions and lengths."""
    rows, batch = _rows(), lava_cache(model, **settings)
    texts = _generate(model, _padded(rows), batch, **options)
    lengths = batch.lengths()
    for index, row in enumerate(rows):
        alone = lava_cache(model, **settings)
        text = _generate(model, _padded([row]), alone, **options)[0]
        assert texts[index, : len(text)].equal(text)
        assert bool((texts[index, len(text) :] == PAD).all())
        seen = row.shape[1] + len(text) - 1  # the last token was never fed
        for place, layer in enumerate(batch.layer_indices):
            for head in range(lengths.shape[2]):
                held = batch.kept_positions(layer, index, head)
                assert len(held) == lengths[place, index, head]
                assert held[held < seen].equal(alone.kept_positions(layer, 0, head))
        fed = texts.shape[1] - 1
        expected = _prompt_entries(row.shape[1], settings) + fed
        assert int(lengths[:, index].sum()) == expected * lengths[:, index].numel()


def _prompt_entries(tokens: int, settings: dict[str, object]) -> int:
    """Mean entries per head that the method promises for a prompt of this length."""
    budget = max(round(float(settings["keep"]) * tokens), WINDOW + 1) if "keep" in settings else BUDGET  # type: ignore[arg-type]
    return min(tokens, budget)


@pytest.mark.parametrize("settings", [{}, {"keep": 0.25}], ids=["budget", "keep"])
@pytest.mark.parametrize("store", ["ragged", "masked"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_of_a_batch_equal_the_rows_alone(attention: str, store: str, settings: dict[str, object]) -> None:
    model = lavakv.enable(zoo.tiny("llama", DTYPES[attention], attention=attention))
    compare_with_rows_alone(model, {"store": store, **settings}, eos_token_id=None)


@pytest.mark.parametrize("kind", [kind for kind in zoo.TEXT if kind != "llama"])
def test_rows_equal_the_rows_alone_on_every_architecture(kind: str) -> None:
    dtype = DTYPES["eager" if kind == "gemma2" else "sdpa"]
    compare_with_rows_alone(lavakv.enable(zoo.tiny(kind, dtype)), {}, eos_token_id=None)


@pytest.mark.parametrize("store", ["ragged", "masked"])
def test_rows_that_finish_early(store: str) -> None:
    """Several ids end a text, so that rows stop at different steps and go on receiving padding."""
    model = lavakv.enable(zoo.tiny("llama", torch.float64))
    texts = _generate(model, _padded(_rows()), lava_cache(model), eos_token_id=None)
    ends = [int(texts[0, 2]), int(texts[1, 5])]
    stopped = _generate(model, _padded(_rows()), lava_cache(model), eos_token_id=ends)
    assert len({int((row == PAD).sum()) for row in stopped}) > 1
    compare_with_rows_alone(model, {"store": store}, eos_token_id=ends)


def test_order_of_rows_does_not_matter() -> None:
    model = lavakv.enable(zoo.tiny("qwen2", torch.float64))
    rows = _rows()
    forward, backward = lava_cache(model), lava_cache(model)
    one = _generate(model, _padded(rows), forward, eos_token_id=None)
    other = _generate(model, _padded(rows[::-1]), backward, eos_token_id=None)
    assert one.equal(other.flip(0))
    assert forward.lengths().equal(backward.lengths().flip(1))


def test_padding_is_never_counted_or_kept() -> None:
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model)
    with torch.no_grad():
        model(**_padded(_rows()), past_key_values=cache)
    assert cache.lengths().sum(dim=(0, 2)).tolist() == [min(n, BUDGET) * 3 * 2 for n in LENGTHS]
    for sequence, tokens in enumerate(LENGTHS):
        held = cache.kept_positions(1, sequence, 1)
        assert held[-1] == tokens - 1
        assert held[0] >= 0
        assert held.diff().gt(0).all()
