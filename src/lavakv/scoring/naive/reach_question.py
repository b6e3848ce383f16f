"""Reference implementation of `reach-question`."""

from __future__ import annotations

from lavakv.scoring.naive.reach import deviation_naive, norm_naive, reach_score_naive
from lavakv.scoring.naive.window import NaiveWindow, Rows, mean_attention_naive


def reach_question_score_naive(window: NaiveWindow) -> list[list[float]]:
    """Reference implementation of `reach_question_score`."""
    scale, followed = norm_naive(window), []
    for head in range(len(window.keys)):
        paid = enumerate(followed_attention_naive(window, head))
        followed.append([one * deviation_naive(window, head, place) / scale for place, one in paid])
    budget = window.tokens_per_head or len(window.keys[0]) / 8
    return with_share_naive(reach_score_naive(window), followed, int(budget) - len(window.queries[0]))


def followed_attention_naive(window: NaiveWindow, head: int) -> list[float]:
    """Largest mean attention of a group's query heads to each evictable position, or 0.3 of that to one just before."""
    means = mean_attention_naive(window)
    paid = [max(means[query][place] for query in window.group(head)) for place in range(window.num_evictable)]
    return [max([paid[i], *(0.3 * x for x in paid[max(i - 8, 0) : i])]) for i in range(len(paid))]


def with_share_naive(scores: Rows, others: Rows, entries: int) -> list[list[float]]:
    """Both scores in one, the second scaled so that a half, or less, of what is kept comes from it."""
    kept = entries * len(scores)
    chosen = kept * min(max(entries - 32, 0), 128) // 256
    if not 0 < chosen <= kept < sum(map(len, scores)):
        return [list(row) for row in scores]
    least_kept, least_chosen = (
        sorted((x for row in rows for x in row), reverse=True)[count - 1]
        for rows, count in ((scores, kept), (others, chosen))
    )
    factor = least_kept / least_chosen if least_chosen > 1e-30 else 0.0
    pairs = zip(scores, others, strict=True)
    return [[max(x, factor * y) for x, y in zip(*rows, strict=True)] for rows in pairs]
