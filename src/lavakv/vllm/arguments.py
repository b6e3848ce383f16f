"""vLLM's arguments that make it lavakv's, for Python and for the command line. Neither vLLM nor PyTorch is loaded."""

from __future__ import annotations

import json
from typing import Any

from lavakv.budgets.spec import DEFAULT_WINDOW
from lavakv.policy.names import window_for
from lavakv.vllm.settings import DEFAULT_POLICY, KEY, Settings

WORKER = "lavakv.vllm.Worker"
SCHEDULER = "lavakv.vllm.Scheduler"
CHECK = "Arguments"
BLOCK_TOKENS = 32  # vLLM's kernels for a CPU are faster at multiples of 32 than of 16


def check_name(window: int) -> str:
    """Name of the request check in `lavakv.vllm` for a window."""
    return CHECK if window == DEFAULT_WINDOW else f"{CHECK}{window}"


def engine_arguments(
    *,
    budget: int | None = None,
    keep: float | None = None,
    policy: str = DEFAULT_POLICY,
    window: int | None = None,
) -> dict[str, Any]:
    """Keyword arguments for `vllm.LLM` or `vllm.EngineArgs`: `LLM(model, **engine_arguments(keep=0.25))`.

    Args:
        budget: mean entries a KV head keeps of each prompt, window included; 256 without `keep`.
        keep: kept fraction of each prompt instead, in (0, 1].
        policy: name of the policy.
        window: the last tokens of a prompt: always kept, and the queries that score; the policy's own by default.

    Raises:
        BudgetError, PolicyError: what cannot be met.
    """
    settings = Settings(budget=budget, keep=keep, window=window_for(policy, window), policy=policy)
    return {
        "worker_cls": WORKER,
        "scheduler_cls": SCHEDULER,
        "logits_processors": [f"lavakv.vllm:{check_name(settings.window)}"],
        "enable_prefix_caching": False,
        "block_size": BLOCK_TOKENS,
        "additional_config": {KEY: settings.as_dict()},
    }


def command_line(settings: Settings) -> list[str]:
    """The same as arguments of `vllm serve`."""
    return [
        "--worker-cls", WORKER, "--scheduler-cls", SCHEDULER,
        "--logits-processors", f"lavakv.vllm:{check_name(settings.window)}",
        "--no-enable-prefix-caching", "--block-size", str(BLOCK_TOKENS),
        "--additional-config", json.dumps({KEY: settings.as_dict()}),
    ]  # fmt: skip
