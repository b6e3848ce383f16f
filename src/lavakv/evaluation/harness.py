"""lm-evaluation-harness on a compressed cache: `lm_eval --model lavakv --model_args pretrained=smollm2,budget=256`.

The harness finds the class by way of `lavakv._lm_eval`. Generation and log-likelihoods of continuations go through a
`LavaCache`; rolling log-likelihoods of whole texts have no prompt to compress and are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from lavakv.errors import UnsupportedError
from lavakv.evaluation.runner import PromptRunner
from lavakv.evaluation.variant import Variant
from lavakv.hf import enable
from lavakv.hf.contract import cache_argument
from lavakv.models.load import load

Request = tuple[tuple[str, str], list[int], list[int]]


@register_model("lavakv")
class LavaLM(HFLM):
    """The harness's Hugging Face model class with a `LavaCache` under it.

    Args:
        pretrained: as in `lavakv.models.load.load`, like `dtype`, `device` and `attention`.
        policy: a name from `lavakv.policies()`, or "full" for the full cache.
        budget: mean entries per KV head; or instead `keep`, the kept fraction, or `max_bytes`.
        window: as in `LavaCache`.
        options: other arguments of the harness's class (`batch_size`, `max_length`, ...).

    Raises:
        LavaError: a model, policy or budget that cannot be used.
    """

    def __init__(
        self,
        pretrained: str = "smollm2",
        policy: str = "lava",
        budget: int | None = None,
        keep: float | None = None,
        max_bytes: int | str | None = None,
        window: int | None = None,
        dtype: str = "auto",
        device: str | None = "auto",
        attention: str | None = None,
        **options: Any,
    ) -> None:
        loaded = load(pretrained, dtype=dtype, device=device or "auto", attention=attention)
        self._variant = Variant(None if policy == "full" else policy, budget, keep, max_bytes, window)
        self._variant.new_cache(loaded.model.config)  # finds mistakes before a task is loaded
        super().__init__(pretrained=enable(loaded.model), tokenizer=loaded.tokenizer, **options)

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        cache = self._variant.new_cache(self.config)
        held = cache_argument(self.model, cache)
        output: Tensor = super()._model_generate(context, max_length, stop, **held, **generation_kwargs)
        return output

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Continuations after a compressed context, which is read once for all continuations of it."""
        found: dict[int, tuple[float, bool]] = {}
        numbered = sorted(enumerate(requests), key=lambda each: (-len(each[1][1]), each[1][1]))
        for context, group in groupby(numbered, key=lambda each: each[1][1]):
            self._score(context, list(group), found)
        return [found[index] for index in range(len(requests))]

    @torch.no_grad()
    def _score(
        self, context: list[int], group: list[tuple[int, Request]], found: dict[int, tuple[float, bool]]
    ) -> None:
        longest = max(len(request[2]) for _, request in group)
        most = self.max_length - longest + 1  # as the harness does: what does not fit is cut from the left
        runner = PromptRunner(self.model, torch.tensor([context[-most:]]))
        for index, (texts, _, continuation) in group:
            target = torch.tensor(continuation, device=self.device)
            logits = runner.recording.next_logits[None]
            if len(continuation) > 1:
                cache = runner.fill([self._variant])
                logits = torch.cat([logits, runner.feed(cache, target[None, :-1], len(continuation) - 1)[0]])
            scores = logits.float().log_softmax(dim=-1)
            total = float(scores.gather(1, target[:, None]).sum())
            found[index] = (total, bool((scores.argmax(dim=-1) == target).all()))
            self.cache_hook.add_partial("loglikelihood", texts, found[index])

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Refused: whole texts are read in one piece, so there is no cache to compress.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            "task", expected="generation, or continuations of a context", got="the likelihood of whole texts",
            fix="Use --model hf: without a prompt nothing is compressed.",
        )  # fmt: skip
