"""Greedy decoding from a cache that holds its prompt already."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from lavakv.hf.contract import cache_argument

_CROWDED = 0.75  # of a batch's rows are still going at most, and the others leave


class Generated(NamedTuple):
    """Generated tokens and their speed.

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
    """What ends an answer besides the model's own end of sequence and the limit.

    Attributes:
        tokens: ids that end it.
        not_first: none of the ending tokens may be the first one; the likeliest other token is taken there.
        ended: called after every token; true if these ids are a whole answer. None never ends one.
    """

    tokens: frozenset[int] = frozenset()
    not_first: bool = False
    ended: Callable[[list[int]], bool] | None = None


def greedy_rows(
    model: Any, cache: Any, next_logits: Tensor, max_new_tokens: int, stop: StopRule | None = None
) -> list[list[int]]:
    """Take each row's likeliest token, one forward a token, until the last row has ended. Returns token ids by row.

    Rows that have ended leave the batch and the cache, in groups because that copies what the others hold.

    Args:
        model: an enabled causal language model.
        cache: a `LavaCache` that holds everything before the first new token, with the rows as its sequences. At the
            end it holds only rows that were still there.
        next_logits: `[rows, vocabulary]`, what the model expects next.
        max_new_tokens: most tokens of each row, at least one.
        stop: what ends an answer besides the model's own end of sequence.
    """
    stop = stop or StopRule()
    ends = model.generation_config.eos_token_id
    stops = stop.tokens | (set(ends) if isinstance(ends, list) else {ends} - {None})
    if stop.not_first and stops:
        next_logits = next_logits.clone()
        next_logits[:, sorted(stops)] = float("-inf")
    latest = next_logits.argmax(dim=-1, keepdim=True)
    rows: list[list[int]] = [[] for _ in latest]
    batch = going = list(range(len(rows)))
    while True:
        new = dict(zip(batch, latest.flatten().tolist(), strict=True))
        for row in going:
            rows[row].append(new[row])
        going = [row for row in going if not _is_whole(rows[row], max_new_tokens, stops, stop)]
        if not going:
            return rows
        if len(going) <= _CROWDED * len(batch) and cache.can_select:
            places = [place for place, row in enumerate(batch) if row in going]
            cache.select(places)
            batch, latest = going, latest[places]
        latest = model(latest, **cache_argument(model, cache)).logits[:, -1].argmax(dim=-1, keepdim=True)


def _is_whole(tokens: list[int], max_new_tokens: int, stops: AbstractSet[int], stop: StopRule) -> bool:
    return len(tokens) >= max_new_tokens or tokens[-1] in stops or (stop.ended is not None and stop.ended(tokens))
