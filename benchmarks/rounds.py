"""What later rounds cost in fidelity: a prompt read in chunks, evicted after each, against one that is read at once.

Prompts come from JSON lines files as in kl.py. After the last chunk the full cache's own greedy answer is fed token by
token; the divergence of the next-token distribution from the full cache's is averaged over it. Options of the round are
compared in the same run: which neighbours pooling takes together, what normalises the entropy of a layer, and whether
an entry's earlier scores count beside the new ones. Prints a line a prompt, then geometric means and one JSON line.

    python benchmarks/rounds.py data/*.jsonl --half choose --limit 8 --chunk 512
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from kl import prompts, truncated
from torch import Tensor
from transformers import DynamicCache

import lavakv
from lavakv.attention import AttentionSettings
from lavakv.eviction.later import Observation
from lavakv.hf.contract import cache_name
from lavakv.hf.layer import LavaLayer
from lavakv.hf.prompt import LayerPrompt
from lavakv.models.load import load
from lavakv.policy.registry import get_policy
from lavakv.policy.rules import Policy
from lavakv.scoring import entropy, pooling
from lavakv.scoring.tiers import TieredScores
from lavakv.scoring.window import ScoringWindow

WINDOW = 32
MIN_NATS = 1e-6


class _ObservedLayer(LavaLayer):
    """Remembers the last queries, and the prompt's output projection."""

    queries: Tensor
    settings: AttentionSettings
    weight: Tensor | None = None

    def take_prompt(self, prompt: LayerPrompt) -> None:
        """Also note what judges a later round."""
        super().take_prompt(prompt)
        self.queries, self.settings = prompt.queries[:, :, -WINDOW:].detach(), prompt.settings
        if prompt.projection is not None:
            self.weight = prompt.projection().weight("rounds").detach()

    def append(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Any, settings: AttentionSettings) -> Tensor:
        """Also note what judges a later round."""
        self.queries = torch.cat([self.queries, queries.detach()], dim=2)[:, :, -WINDOW:]
        return super().append(queries, keys, values, mask, settings)


class ObservedCache(lavakv.LavaCache):
    """A cache that can evict again after later forwards."""

    def new_layer(self, stock: Any, *args: Any) -> LavaLayer:
        """A layer that remembers its last queries."""
        return _ObservedLayer(*args)

    def evict(self, norms: dict[int, Tensor], tokens_per_head: int, policy: Policy) -> None:
        """A later round; `norms` are those of the residual stream in the last columns, by layer."""
        layers = [self.layers[index] for index in self.layer_indices]
        observed = [Observation(one.queries, one.settings, one.index, one.weight, norms[one.index]) for one in layers]
        self._state.session.evict(observed, [(policy, tokens_per_head)], WINDOW)


def running_maximum(policy: Policy, decay: float) -> Policy:
    """The policy with each entry's earlier scores, decayed once a round, beside its new one."""
    earlier: dict[int, tuple[Tensor, Tensor]] = {}

    def score(window: ScoringWindow) -> Tensor | TieredScores:
        new = policy.score(window)
        values = new[0] if isinstance(new, TieredScores) else new
        heads, places = values.shape
        positions = torch.arange(places).expand(heads, -1) if window.positions is None else window.positions
        if window.layer in earlier:
            held, scores = earlier[window.layer]
            size = int(max(held.max(), positions.max())) + 1
            table = torch.zeros(heads, size + 1).scatter_(1, held.clamp(min=0), scores)
            values = torch.maximum(values, decay * table.gather(1, positions.clamp(min=0)))
        earlier[window.layer] = positions.clone(), values.clone()
        return TieredScores(values, new[1]) if isinstance(new, TieredScores) else values

    return replace(policy, name=f"{policy.name}, maximum x {decay:g}", score=score)


@contextmanager
def by_position() -> Iterator[None]:
    """Pool over positions within reach."""
    pooling.BY_POSITION = True
    try:
        yield
    finally:
        pooling.BY_POSITION = False


@contextmanager
def by_widest_head() -> Iterator[None]:
    """Normalise a layer's entropy by the logarithm of all places, empty ones included."""
    own = entropy._largest_entropy
    entropy._largest_entropy = lambda num_scores, *_: math.log(num_scores)
    try:
        yield
    finally:
        entropy._largest_entropy = own


@contextmanager
def as_it_is() -> Iterator[None]:
    """The round as it stands."""
    yield


OPTIONS: dict[str, Callable[[], Any]] = {"places": as_it_is, "positions": by_position, "widest head": by_widest_head}


class Reader:
    """Feeds one model."""

    def __init__(self, model: Any) -> None:
        self._model, self._name = lavakv.enable(model), cache_name(model.model)
        self._norms: dict[int, Tensor] = {}
        for index, layer in enumerate(model.model.layers):
            layer.register_forward_pre_hook(self._noting(index))

    def _noting(self, index: int) -> Callable[[Any, tuple[Any, ...]], None]:
        def note(_: Any, args: tuple[Any, ...]) -> None:
            norms = args[0].detach().float().norm(dim=-1)
            before = self._norms.get(index, norms[:, :0])
            self._norms[index] = torch.cat([before, norms], dim=1)[:, -WINDOW:]

        return note

    def log_probabilities(self, ids: Tensor, answer: Tensor | None, chunk: int, cache: Any, evict: Any) -> Tensor:
        """Read `ids` in chunks, then `answer`, or else 32 greedy tokens, one by one; `[tokens, vocabulary]`."""
        self._norms.clear()
        for number, part in enumerate(torch.split(ids, chunk, dim=1)):
            logits = self._model(part, **{self._name: cache}, logits_to_keep=1).logits[:, -1]
            if number and evict is not None:
                evict(cache, self._norms)
        found = [logits]
        for step in range(31):
            token = logits.argmax(dim=-1, keepdim=True) if answer is None else answer[:, step : step + 1]
            logits = self._model(token, **{self._name: cache}).logits[:, -1]
            found.append(logits)
        return torch.cat(found).log_softmax(dim=-1)


def divergence(full: Tensor, cut: Tensor) -> float:
    """Mean divergence in nats of the cut cache's distributions from the full one's."""
    return float((full.exp() * (full - cut)).sum(dim=-1).mean())


def measure(reader: Reader, ids: Tensor, options: argparse.Namespace, config: Any) -> Iterator[tuple[str, float]]:
    """Divergence of each policy in each form of the round."""
    tokens_per_head = max(round(options.keep * ids.shape[1]), WINDOW + 1)
    full = reader.log_probabilities(ids, None, ids.shape[1], DynamicCache(config=config), None)
    answer = full.argmax(dim=-1)[None]

    def cut(policy: Policy, chunk: int) -> float:
        cache = ObservedCache(config, tokens_per_head, policy, WINDOW, max_new_tokens=len(full) + chunk)

        def evict(filled: ObservedCache, norms: dict[int, Tensor]) -> None:
            filled.evict(norms, tokens_per_head, policy)

        return divergence(full, reader.log_probabilities(ids, answer, chunk, cache, evict))

    for name in options.policies.split(","):
        policy = get_policy(name)
        yield f"{name}: at once", cut(policy, ids.shape[1])
        for option, context in OPTIONS.items():
            if option != "widest head" or policy.layer_rule == "entropy":
                with context():
                    yield f"{name}: {option}", cut(policy, options.chunk)
        for decay in (1.0, 0.5):
            yield f"{name}: maximum x {decay:g}", cut(running_maximum(policy, decay), options.chunk)


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--half", choices=["choose", "report"], required=True)
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1600)
    parser.add_argument("--chunk", type=int, default=400)
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--policies", default="lava,ada-snapkv,layer-defensivekv,residual")
    options = parser.parse_args()
    loaded = load(options.model, dtype="float32", device="cpu")
    reader, found = Reader(loaded.model), defaultdict[str, list[float]](list)
    with torch.no_grad():
        for prompt in prompts(options):
            text = f"{prompt.context}\n\n{prompt.question}"
            ids = truncated(loaded.tokenizer, text, options.tokens)
            for name, nats in measure(reader, ids, options, loaded.model.config):
                found[name].append(max(nats, MIN_NATS))
            print(prompt.name, ids.shape[1], {name: round(values[-1], 4) for name, values in found.items()}, flush=True)
    means = {name: math.exp(sum(map(math.log, values)) / len(values)) for name, values in found.items()}
    for name, mean in means.items():
        print(f"{name:40} {mean:9.5f}")
    about = {"model": options.model, "prompts": len(next(iter(found.values()))), "tokens": options.tokens}
    about |= {"chunk": options.chunk, "keep": options.keep}
    print(json.dumps({**about, "geometric_mean_kl": {name: round(mean, 5) for name, mean in means.items()}}))


if __name__ == "__main__":
    main()
