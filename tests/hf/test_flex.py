"""Flex attention, whose masks are functions. Run without compiling, which takes over a minute on a small CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import lavakv
from tests.hf import zoo
from tests.hf.helpers import BY_POSITION, feed, kept, lava_cache, split, typical

CHUNKS = split(zoo.prompt(44), [40, 1, 3])

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _uncompiled() -> Iterator[None]:
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_flex_and_eager_agree(kind: str) -> None:
    """Both against float64 (eager); flex may err twice as much as eager does."""
    logits, positions = [], []
    for attention, dtype in (("flex_attention", torch.float32), ("eager", torch.float32), ("eager", torch.float64)):
        model = lavakv.enable(zoo.tiny(kind, dtype, attention=attention))
        assert ("flash" in model.config._attn_implementation) == ("flash" in attention)
        cache = lava_cache(model, policy=BY_POSITION)
        logits.append(feed(model, cache, CHUNKS))
        positions.append(kept(cache))
    assert positions[0] == positions[1] == positions[2]
    flex, eager, exact = logits
    ulp = torch.finfo(torch.float32).eps * float(exact.square().mean().sqrt())
    assert typical(flex, exact) <= 2 * typical(eager, exact) + ulp


@pytest.mark.parametrize("store", ["ragged", "masked"])
def test_padded_rows_equal_the_rows_alone(store: str) -> None:
    """Compiled, transformers' CPU flex attention cannot take a padded batch; uncompiled it can."""
    model = lavakv.enable(zoo.tiny("llama", attention="flex_attention"))
    rows, batch = [zoo.prompt(40, seed=1), zoo.prompt(29, seed=2)], lava_cache(model, store=store)
    ids = torch.cat([rows[0], torch.nn.functional.pad(rows[1], (11, 0))])
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    texts = model.generate(ids, attention_mask=(ids != 0).long(), past_key_values=batch, **options)
    for index, row in enumerate(rows):
        alone = lava_cache(model, store=store)
        assert model.generate(row, past_key_values=alone, **options)[0, -5:].equal(texts[index, -5:])
        for layer in batch.layer_indices:
            assert batch.kept_positions(layer, index, 1).equal(alone.kept_positions(layer, 0, 1))
