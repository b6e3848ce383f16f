"""What cannot be asked of a `LavaCache`, refused at construction or before the first layer's attention."""

from __future__ import annotations

import pytest

import lavakv
from lavakv import BudgetError, InputError, PolicyError, UnsupportedError
from tests.hf import zoo
from tests.hf.helpers import feed, lava_cache, refuses

BAD_VALUES = [
    ("budget", 0),
    ("budget", -5),
    ("budget", 24.5),
    ("budget", True),
    ("budget", "24"),
    ("budget", float("nan")),
    ("window", 0),
    ("window", -1),
    ("window", 8.0),
    ("window", True),
    ("keep", 0),
    ("keep", -0.1),
    ("keep", 1.01),
    ("keep", float("nan")),
    ("keep", float("inf")),
    ("keep", True),
    ("keep", "0.5"),
    ("max_bytes", 0),
    ("max_bytes", -1),
    ("max_bytes", True),
    ("max_bytes", 1.5),
    ("max_bytes", ""),
    ("max_bytes", "many"),
    ("max_bytes", "12 bananas"),
    ("max_bytes", "-3MiB"),
    ("max_bytes", "0"),
]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_bad_numbers(name: str, value: object) -> None:
    with refuses(BudgetError, name, repr(value)):
        lavakv.LavaCache(zoo.tiny_config("llama"), **{name: value})


@pytest.mark.parametrize("names", [("budget", "keep"), ("budget", "max_bytes"), ("keep", "max_bytes")])
def test_two_ways_to_give_the_budget(names: tuple[str, str]) -> None:
    values = {"budget": 24, "keep": 0.5, "max_bytes": "1MiB"}
    with refuses(BudgetError, f"{names[0]} and {names[1]}"):
        lavakv.LavaCache(zoo.tiny_config("llama"), **{name: values[name] for name in names})


@pytest.mark.parametrize("policy", ["lavaa", "", None, 3])
def test_unknown_policy(policy: object) -> None:
    with refuses(PolicyError, "policy", repr(policy)):
        lavakv.LavaCache(zoo.tiny_config("llama"), policy=policy)


@pytest.mark.parametrize("store", ["dense", "", None])
def test_unknown_store(store: object) -> None:
    with refuses(InputError, "store", repr(store)):
        lavakv.LavaCache(zoo.tiny_config("llama"), store=store)


@pytest.mark.parametrize("config", [None, {}, "llama", 5])
def test_not_a_config(config: object) -> None:
    with refuses(InputError, "config", type(config).__name__):
        lavakv.LavaCache(config)


def test_model_instead_of_its_config() -> None:
    with refuses(InputError, "config", "LlamaForCausalLM"):
        lavakv.LavaCache(zoo.tiny("llama"))


@pytest.mark.parametrize("budget", [1, 7, 8])
def test_budget_within_the_window(budget: int) -> None:
    """Wrong only for a longer prompt, so it shows when the prompt comes; the cache stays empty and usable."""
    model = lavakv.enable(zoo.tiny("llama"))
    cache = lava_cache(model, budget=budget)
    with refuses(BudgetError, "budget", str(budget)):
        feed(model, cache, [zoo.prompt(40)])
    assert cache.get_seq_length() == 0
    feed(model, cache, [zoo.prompt(budget)])
    assert int(cache.lengths().sum()) == budget * 6


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_bytes_that_do_not_suffice_and_the_least_that_do(kind: str) -> None:
    """The error names the least number of bytes that would do: it does, and one less does not."""
    model = lavakv.enable(zoo.tiny(kind))
    ids = zoo.prompt(40, batch=2)
    with pytest.raises(BudgetError) as caught:
        feed(model, lava_cache(model, max_bytes=1), [ids])
    least = int(caught.value.expected.split()[2])
    small = lava_cache(model, max_bytes=least - 1)
    with refuses(BudgetError, "max_bytes", str(least - 1)):
        feed(model, small, [ids])
    assert small.get_seq_length() == 0
    assert small.nbytes == 0
    enough = lava_cache(model, max_bytes=least)
    feed(model, enough, [ids])
    assert enough.nbytes == least


def test_bytes_for_recurrent_layers_are_not_guessed() -> None:
    model = lavakv.enable(zoo.tiny("qwen3_next"))
    cache = lava_cache(model, max_bytes="1MiB")
    with refuses(UnsupportedError, "max_bytes"):
        feed(model, cache, [zoo.prompt(40)])
    assert cache.nbytes == 0
