"""One prefill, many answers: numbers equal to those of the ragged store run alone."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import DynamicCache

import lavakv
from lavakv.evaluation.distance import Reference, distance, log_probabilities
from lavakv.evaluation.sweep import Sweep
from lavakv.evaluation.variant import Variant
from tests.hf import zoo

PROMPT, WINDOW, POSITIONS = 70, 8, 5
ARCHITECTURES = ["llama", "gemma2", "gemma3_text", "gpt_oss", "qwen3_next", "gpt2"]


def _alone(model, context, variant: Variant, tokens) -> tuple[lavakv.LavaCache, torch.Tensor]:
    """A plain forward of the prompt and one of what follows, on a cache of its own."""
    with lavakv.enabled(model), torch.no_grad():
        cache = variant.new_cache(model.config)
        model(context, past_key_values=cache)
        return cache, model(tokens, past_key_values=cache).logits[0]


def _full(model, context, question) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens fed after the context and logits to compare, from the stock cache, one token after the other."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        logits = model(context, past_key_values=cache).logits[0, -1]
        fed, kept = [], []
        if question is not None:
            logits = model(question, past_key_values=cache).logits[0, -1]
            fed.append(question)
            kept.append(logits)
        while len(kept) < POSITIONS:
            fed.append(logits.argmax().view(1, 1))
            logits = model(fed[-1], past_key_values=cache).logits[0, -1]
            kept.append(logits)
    return torch.cat(fed, dim=1), torch.stack(kept)


@pytest.mark.parametrize("aware", [True, False])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_variant_s_numbers_are_those_of_a_run_alone(kind, aware) -> None:
    model, context = zoo.tiny(kind, torch.float64), zoo.prompt(PROMPT)
    questions = [] if aware else [zoo.prompt(6, seed=1), zoo.prompt(3, seed=2)]
    sizes = [{"budget": 30}, {"keep": 0.2}, {"budget": 99}]
    policies = ("lava", "layer-defensivekv", "residual", "cake", "h2o")
    variants = [Variant(policy, window=WINDOW, **size) for policy in policies for size in sizes]
    rows = list(Sweep(model, context, questions, POSITIONS).run(variants))
    assert len(rows) == len(variants) * max(len(questions), 1)
    for row in rows:
        tokens, full = _full(model, context, None if aware else questions[row.question])
        _, logits = _alone(model, context, row.variant, tokens)
        expected = distance(Reference(log_probabilities(full)), logits[-POSITIONS:])
        assert row.kl_nats == pytest.approx(expected.kl_nats, rel=1e-6, abs=1e-12)
        assert row.top1_agreement == expected.top1_agreement
        fresh = row.variant.new_cache(model.config)
        with lavakv.enabled(model), torch.no_grad():
            model(context, past_key_values=fresh)
        assert row.kept_entries == int(fresh.lengths().sum())
        assert row.kv_bytes == fresh.nbytes
        assert row.estimated_loss == pytest.approx(float(fresh.budgets().estimated_loss.sum()), rel=1e-12)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_question_asked_later_needs_no_second_prefill(attention) -> None:
    model, prompt = zoo.tiny("llama", torch.float64), zoo.prompt(PROMPT)
    model.set_attn_implementation(attention)
    context, question = prompt[:, :60], prompt[:, 60:]
    variants = [Variant(policy, budget=30, window=WINDOW) for policy in ("lava", "residual", "h2o")]
    once = list(Sweep(model, prompt, num_positions=POSITIONS).asked_later(60).run(variants))
    for mine, other in zip(once, Sweep(model, context, [question], POSITIONS).run(variants), strict=True):
        assert mine.kl_nats == pytest.approx(other.kl_nats, rel=1e-6)
        assert (mine.kept_entries, mine.kv_bytes) == (other.kept_entries, other.kv_bytes)
        assert mine.estimated_loss == pytest.approx(other.estimated_loss, rel=1e-9)


def test_what_cannot_be_asked_later() -> None:
    with pytest.raises(lavakv.UnsupportedError, match="sliding"):
        Sweep(zoo.tiny("gemma3_text"), zoo.prompt(PROMPT)).asked_later(60)
    with pytest.raises(lavakv.InputError, match="part of one prompt"):
        Sweep(zoo.tiny("llama"), zoo.prompt(PROMPT)).asked_later(PROMPT)


@pytest.mark.parametrize("store", ["ragged", "masked"])
def test_rows_of_one_batch_take_the_bytes_they_take_alone(store) -> None:
    model, context = zoo.tiny("gemma3_text"), zoo.prompt(PROMPT)
    variants = [Variant("lava", budget=budget, window=WINDOW, store=store) for budget in (20, 45, PROMPT)]
    rows = list(Sweep(model, context, num_positions=POSITIONS).run(variants))
    for row in rows:
        cache = row.variant.new_cache(model.config)
        with lavakv.enabled(model), torch.no_grad():
            model(context, past_key_values=cache)
        assert row.kv_bytes == cache.nbytes


@pytest.mark.parametrize("policy", list(lavakv.policies()))
def test_filled_caches_keep_what_a_prefill_keeps_whatever_came_before(policy) -> None:
    model, context = zoo.tiny("llama", torch.float64), zoo.prompt(PROMPT)
    sweep = Sweep(model, context, num_positions=1)
    for budget in (40, 20, 40):
        variant = Variant(policy, budget=budget, window=WINDOW)
        fresh, _ = _alone(model, context, variant, zoo.prompt(1))
        filled = sweep.filled(variant)
        for layer in fresh.layer_indices:
            for head in range(2):
                assert (
                    fresh.kept_positions(layer, 0, head).tolist()[:-1] == filled.kept_positions(layer, 0, head).tolist()
                )


def test_the_full_cache_is_no_distance_from_itself() -> None:
    model = zoo.tiny("llama", torch.float64)
    (row,) = Sweep(model, zoo.prompt(PROMPT), num_positions=POSITIONS).run([Variant(None)])
    assert row.kl_nats < 1e-12
    assert row.top1_agreement == 1
    assert row.kept_fraction == 1


def test_generated_text_is_that_of_generate() -> None:
    model, context = zoo.tiny("llama", torch.float64), zoo.prompt(PROMPT)
    sweep = Sweep(model, context, num_positions=1)
    for variant in (Variant(None), Variant("lava", budget=30, window=WINDOW)):
        tokens = sweep.generate(variant, 0, 9).tokens
        with lavakv.enabled(model):
            out = model.generate(
                context, attention_mask=torch.ones_like(context), past_key_values=variant.new_cache(model.config),
                max_new_tokens=9, do_sample=False,
            )  # fmt: skip
        assert tokens == out[0, PROMPT:].tolist()


def test_distance_is_zero_for_the_same_and_known_for_two() -> None:
    logits = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    assert distance(Reference(log_probabilities(logits)), logits) == (0.0, 1.0)
    halves, thirds = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(1), math.log(3)]])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert distance(Reference(log_probabilities(halves)), thirds).kl_nats == pytest.approx(expected, rel=1e-6)


def test_what_a_sweep_refuses() -> None:
    model, context = zoo.tiny("llama"), zoo.prompt(PROMPT)
    with pytest.raises(lavakv.InputError, match="one sequence"):
        Sweep(model, zoo.prompt(PROMPT, batch=2))
    with pytest.raises(lavakv.InputError, match="an empty one"):
        Sweep(model, context, [torch.zeros(1, 0, dtype=torch.long)])
    with pytest.raises(lavakv.InputError, match="positions"):
        Sweep(model, zoo.prompt(512))
    sweep = Sweep(model, context, num_positions=1)
    with pytest.raises(lavakv.BudgetError):
        next(sweep.run([Variant("lava", budget=10)]))
    not_a_number = lavakv.Policy("broken", "", lambda w: w.mean_attention[:, 0] * float("nan"))
    with pytest.raises(lavakv.PolicyError, match="'broken' at layer 0"):
        next(sweep.run([Variant(not_a_number, budget=40, window=WINDOW)]))
    assert next(sweep.run([Variant("lava", budget=40, window=WINDOW)])).kept_entries == 40 * 6
