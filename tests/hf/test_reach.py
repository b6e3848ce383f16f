"""`reach` in a model: rows of the prompt are chosen over its layers, each sequence and each reading by itself."""

from __future__ import annotations

import pytest
import torch

import lavakv
from lavakv.eviction.shares import SequencePlan
from lavakv.hf.recorder import record
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy
from lavakv.scoring import reach
from lavakv.scoring.distinctness import distinctness, row_distinctness
from lavakv.scoring.reach import asked_rows, reach_score
from lavakv.scoring.window import ScoringWindow
from tests.hf import zoo
from tests.hf.helpers import BUDGET, WINDOW, feed, kept, lava_cache, refuses

PROMPT, SHORTER = 300, 260  # more rows than are asked again


def _model() -> torch.nn.Module:
    return lavakv.enable(zoo.with_large_weights(zoo.tiny("llama", torch.float64, num_hidden_layers=4)))


@pytest.mark.parametrize("policy", ["reach", "reach-question"])
@pytest.mark.parametrize("seed", range(6))
def test_a_padded_batch_keeps_what_each_row_keeps_alone(seed: int, policy: str) -> None:
    """The same token stands at many positions, and padding changes what each of their rotations rounds to."""
    model, batch = _model(), zoo.prompt(PROMPT, batch=2, seed=seed)
    mask = torch.ones_like(batch)
    mask[1, : PROMPT - SHORTER] = 0
    both = lava_cache(model, policy=policy)
    feed(model, both, [batch], attention_mask=mask)
    for row, length in enumerate((PROMPT, SHORTER)):
        alone = lava_cache(model, policy=policy)
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
        plan = SequencePlan(PROMPT, 0, BUDGET, WINDOW, get_policy("reach"))
        window = prompt.window(0, plan, None, layer)
        total = total + row_distinctness(window)
        spread = {PROMPT - 1 - number * PROMPT // 32 for number in range(32)}
        others = [row for row in total.argsort(descending=True, stable=True).tolist() if row not in spread]
        assert set(asked_rows(window).tolist()) == {*others[:96], *spread}, layer


@pytest.mark.parametrize("policy", ["reach", "reach-question"])
@pytest.mark.parametrize("settings", [{"budget": 24}, {"budget": 60}, {"keep": 0.3}, {"max_loss": 0.2}])
def test_a_recorded_prompt_gives_what_a_forward_gives(settings: dict[str, float], policy: str) -> None:
    model, ids = _model(), zoo.prompt(PROMPT)
    recording = record(model, ids)
    recording.fill(lava_cache(model, policy=policy, budget=40))
    for reading, part in ((recording, ids), (recording.prefix(SHORTER), ids[:, :SHORTER])):
        direct = lava_cache(model, policy=policy, **settings)
        feed(model, direct, [part])
        assert kept(reading.fill(lava_cache(model, policy=policy, **settings))) == kept(direct)


def test_a_fill_that_failed_leaves_nothing_that_counts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = _model(), zoo.prompt(PROMPT)
    direct = lava_cache(model, policy="reach")
    feed(model, direct, [ids])
    recording = record(model, ids)
    asked = []

    def failing(window: ScoringWindow) -> torch.Tensor:
        asked.append(asked_rows(window))
        if window.layer == 2:
            raise ValueError("made up")
        return asked[-1]

    with monkeypatch.context() as patch:
        patch.setattr(reach, "asked_rows", failing)
        with refuses(lavakv.PolicyError, "policy 'reach'"):
            recording.fill(lava_cache(model, policy="reach"))
    assert len(asked) == 3
    recording = recording._replace(scored={}, ranked={})
    for prompt in recording.layers.values():
        prompt.windows.clear()
    assert kept(recording.fill(lava_cache(model, policy="reach"))) == kept(direct)


def _copy(name: str, **more: object) -> Policy:
    return Policy(name, "", reach_score, "pooled", "pool", 0.1, get_policy("reach").needs, **more)


def test_the_same_score_under_two_names_is_worked_out_for_each() -> None:
    """One says that it reads the budget, the other does not and never sees it."""
    model, ids = _model(), zoo.prompt(PROMPT)
    recording = record(model, ids)
    settings = [
        (policy, budget) for policy in (_copy("mine"), _copy("yours", reads_budget=True)) for budget in (16, 100)
    ]
    for policy, budget in settings:
        direct = lava_cache(model, policy=policy, budget=budget)
        feed(model, direct, [ids])
        assert kept(recording.fill(lava_cache(model, policy=policy, budget=budget))) == kept(direct)
    open_budget = lava_cache(model, policy="reach", max_loss=0.2)
    feed(model, open_budget, [ids])
    assert kept(recording.fill(lava_cache(model, policy="reach", max_loss=0.2))) == kept(open_budget)


def test_what_one_policy_sees_without_the_rotation_is_not_another_s() -> None:
    model, ids = _model(), zoo.prompt(PROMPT)
    recording, bare = record(model, ids), Policy("bare", "", distinctness)
    for policy in (bare, "reach", bare):
        direct = lava_cache(model, policy=policy)
        feed(model, direct, [ids])
        assert kept(recording.fill(lava_cache(model, policy=policy))) == kept(direct)


def test_scores_read_the_budget_only_where_it_is_known_and_they_say_so() -> None:
    seen: list[int | None] = []

    def noting(window: ScoringWindow) -> torch.Tensor:
        seen.append(window.tokens_per_head)
        return torch.rand(window.queries.shape[0], window.num_evictable)

    model, ids = _model(), zoo.prompt(PROMPT)
    for policy, settings, expected in [
        (Policy("a", "", noting, reads_budget=True), {"budget": BUDGET}, BUDGET),
        (Policy("b", "", noting), {"budget": BUDGET}, None),
        (Policy("c", "", noting, needs=("tokens_per_head",)), {"budget": BUDGET}, BUDGET),
        (Policy("d", "", noting, reads_budget=True), {"max_loss": 0.2}, None),
    ]:
        seen.clear()
        cache = lava_cache(model, policy=policy, evict="turns", **settings)
        feed(model, cache, [ids, ids[:, :40]])
        assert seen[0] == expected, policy.name
