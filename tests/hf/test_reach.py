"""`reach` in a model: rows of the prompt are chosen over its layers, each sequence and each reading by itself."""

from __future__ import annotations

import pytest
import torch

import lavakv
from lavakv.hf.recorder import record
from lavakv.scoring.distinctness import key_distances
from lavakv.scoring.reach import asked_rows
from tests.hf import zoo
from tests.hf.helpers import WINDOW, feed, kept, lava_cache, refuses

PROMPT, SHORTER = 300, 260  # more rows than are asked again


def _model() -> torch.nn.Module:
    return lavakv.enable(zoo.with_large_weights(zoo.tiny("llama", torch.float64, num_hidden_layers=4)))


def test_a_padded_batch_keeps_what_each_row_keeps_alone() -> None:
    model, batch = _model(), zoo.prompt(PROMPT, batch=2)
    mask = torch.ones_like(batch)
    mask[1, : PROMPT - SHORTER] = 0
    both = lava_cache(model, policy="reach")
    feed(model, both, [batch], attention_mask=mask)
    for row, length in enumerate((PROMPT, SHORTER)):
        alone = lava_cache(model, policy="reach")
        feed(model, alone, [batch[row : row + 1, PROMPT - length :]])
        for layer in both.layer_indices:
            for head in range(both.lengths().shape[2]):
                expected = alone.kept_positions(layer, 0, head)
                assert both.kept_positions(layer, row, head).equal(expected)


def test_layers_before_a_layer_choose_its_rows_with_it() -> None:
    model, ids = _model(), zoo.prompt(PROMPT)
    recording = record(model, ids)
    recording.fill(lava_cache(model, policy="reach"))
    total = torch.zeros(PROMPT)
    for layer, prompt in recording.layers.items():
        window = prompt.windows[WINDOW]
        distances = key_distances(window)
        total = total + (distances / distances.mean(dim=1, keepdim=True)).mean(dim=0)
        spread = {PROMPT - 1 - number * PROMPT // 32 for number in range(32)}
        others = [row for row in total.argsort(descending=True).tolist() if row not in spread]
        assert set(asked_rows(window).tolist()) == {*others[:96], *spread}, layer


@pytest.mark.parametrize("settings", [{"budget": 24}, {"budget": 60}, {"keep": 0.3}, {"max_loss": 0.2}])
def test_a_recorded_prompt_gives_what_a_forward_gives(settings: dict[str, float]) -> None:
    model, ids = _model(), zoo.prompt(PROMPT)
    recording = record(model, ids)
    recording.fill(lava_cache(model, policy="reach", budget=40))
    for reading, part in ((recording, ids), (recording.prefix(SHORTER), ids[:, :SHORTER])):
        direct = lava_cache(model, policy="reach", **settings)
        feed(model, direct, [part])
        assert kept(reading.fill(lava_cache(model, policy="reach", **settings))) == kept(direct)


def test_a_fill_that_failed_leaves_nothing_that_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = _model(), zoo.prompt(PROMPT)
    direct = lava_cache(model, policy="reach")
    feed(model, direct, [ids])
    recording = record(model, ids)
    with monkeypatch.context() as patch:
        broken = recording.layers[2]
        patch.setattr(type(broken), "output_weight", lambda *_: None)
        with refuses(lavakv.PolicyError, "policy 'reach'"):
            recording.fill(lava_cache(model, policy="reach"))
    recording = recording._replace(scored={}, ranked={})
    for prompt in recording.layers.values():
        prompt.windows.clear()
    assert kept(recording.fill(lava_cache(model, policy="reach"))) == kept(direct)
