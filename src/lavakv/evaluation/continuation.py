"""What the full cache says after a prompt, and how far compressed caches are from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from lavakv.evaluation.distance import Distance, Reference, distance, log_probabilities
from lavakv.evaluation.variant import Variant

if TYPE_CHECKING:
    from lavakv.evaluation.runner import PromptRunner
    from lavakv.hf import LavaCache

_MAX_LOGITS = 2**26  # elements of the logits that are held at a time, for all rows of a batch


class Continuation(NamedTuple):
    """What the full cache says after a context.

    Attributes:
        tokens: int64 `[1, tokens]`, what is fed after the context: the question, if it comes later, and greedy tokens.
        reference: of the next token at the last positions.
    """

    tokens: Tensor
    reference: Reference

    @property
    def num_positions(self) -> int:
        """Positions to compare."""
        return self.reference.log_probabilities.shape[0]


def continue_greedily(runner: PromptRunner, question: Tensor | None, num_positions: int) -> Continuation:
    """Let the full cache go on after a context, and after a question if it comes later.

    Args:
        runner: has read the context.
        question: int64 `[1, tokens]` on the model's device, or None if the context holds it.
        num_positions: next-token distributions to note; the one right after a whole prompt is the same for all caches
            and left out.
    """
    cache = runner.fill([Variant(None)])
    collected: list[Tensor] = []
    if question is None:
        fed, logits = [runner.recording.inputs[:, :0]], runner.recording.next_logits
    else:
        fed, logits = [question], runner.feed(cache, question)[0, 0]
        collected.append(logits)
    while len(collected) < num_positions:
        fed.append(logits.argmax().view(1, 1))
        logits = runner.feed(cache, fed[-1])[0, 0]
        collected.append(logits)
    return Continuation(torch.cat(fed, dim=1), Reference(log_probabilities(torch.stack(collected))))


def distances(
    runner: PromptRunner, cache: LavaCache, continuation: Continuation, asked: Tensor | None
) -> list[Distance]:
    """Compare each row of a cache with the full cache; the cache is as before.

    Args:
        runner: that filled the cache.
        cache: holds the context, and the question if it came later.
        continuation: of the full cache on the same context and question.
        asked: `[rows, vocabulary]`, the logits after the question; None if the context holds it.
    """
    log_probabilities, rows = continuation.reference.log_probabilities, cache.batch_size
    sums = torch.zeros(rows, 2, dtype=torch.float64)

    def compare(first: int, logits: Tensor) -> None:
        count = logits.shape[1]
        reference = Reference(log_probabilities[first : first + count])
        sums.add_(torch.tensor([distance(reference, row) for row in logits], dtype=torch.float64), alpha=count)

    done = 0
    if asked is not None:
        compare(0, asked[:, None])
        done = 1
    num_left = continuation.num_positions - done
    tokens = continuation.tokens[:, continuation.tokens.shape[1] - num_left :].expand(rows, -1)
    step = max(_MAX_LOGITS // (rows * log_probabilities.shape[1]), 1)
    mark = cache.mark()
    for some in torch.split(tokens, step, dim=1) if num_left else ():
        compare(done, runner.feed(cache, some, some.shape[1]))
        done += some.shape[1]
    cache.rewind(mark)
    return [Distance(*row) for row in (sums / done).tolist()]
