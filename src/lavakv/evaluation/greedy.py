"""Greedy decoding from a cache that holds its prompt already."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor


class Generated(NamedTuple):
    """What was generated, and how fast.

    Attributes:
        tokens: ids, the token that ended the answer included if one came.
        decode_seconds: from the first new token to the last.
        kv_bytes: bytes of keys and values allocated at the end, all layers.
    """

    tokens: list[int]
    decode_seconds: float
    kv_bytes: int

    @property
    def tokens_per_second(self) -> float | None:
        """Decoding speed, None for a single token."""
        return (len(self.tokens) - 1) / self.decode_seconds if len(self.tokens) > 1 else None


@dataclass(frozen=True, slots=True)
class StopRule:
    """What ends an answer, besides the model's own end of sequence and the limit.

    Attributes:
        tokens: ids that end it, too.
        not_first: may none of the ending tokens be the first one? Then the likeliest other token is taken there.
        ended: is asked after every token whether these ids are a whole answer; None never ends one.
    """

    tokens: frozenset[int] = frozenset()
    not_first: bool = False
    ended: Callable[[list[int]], bool] | None = None


def greedy(model: Any, cache: Any, next_logits: Tensor, max_new_tokens: int, stop: StopRule | None = None) -> Generated:
    """Take the likeliest token until the model ends or the limit is reached.

    Args:
        model: an enabled causal language model.
        cache: a `LavaCache` that holds everything before the first new token.
        next_logits: `[vocabulary]`, what the model expects next.
        max_new_tokens: most tokens to generate, at least one.
        stop: what else ends the answer.
    """
    stop = stop or StopRule()
    ends = model.generation_config.eos_token_id
    stops = stop.tokens | (set(ends) if isinstance(ends, list) else {ends} - {None})
    if stop.not_first and stops:
        next_logits = next_logits.clone()
        next_logits[sorted(stops)] = float("-inf")
    token = next_logits.argmax().view(1, 1)
    tokens, start = [int(token)], time.perf_counter()
    while len(tokens) < max_new_tokens and tokens[-1] not in stops and not (stop.ended and stop.ended(tokens)):
        token = model(token, past_key_values=cache).logits[:, -1].argmax(dim=-1, keepdim=True)
        tokens.append(int(token))
    return Generated(tokens, time.perf_counter() - start, cache.nbytes)
