"""What eviction does, in vLLM's log and at the server's `/metrics`.

The scheduler runs in a process of its own, so what it counts reaches the server's registry by files in the folder
`PROMETHEUS_MULTIPROC_DIR`, which `lavakv serve` provides. Without that folder only the log has it.
"""

from __future__ import annotations

import time

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge
from vllm.logger import init_logger

logger = init_logger("vllm.lavakv")
_LOG_SECONDS = 10.0
PROMPTS, BLOCKS, ENTRIES = "lavakv:prompts_evicted", "lavakv:kv_blocks_freed", "lavakv:kv_entries_held"


class Metrics:
    """Counters of one engine.

    Args:
        model: its name, a label of all metrics.
        registry: where they are registered; an earlier engine's in the same process are replaced.
    """

    def __init__(self, model: str, registry: CollectorRegistry = REGISTRY) -> None:
        for collector in list(registry._collector_to_names):
            if getattr(collector, "_name", "").startswith("lavakv:"):
                registry.unregister(collector)
        label = ["model_name"]
        self._prompts = Counter(PROMPTS, "Prompts evicted to their budget.", label, registry=registry).labels(model)
        self._blocks = Counter(BLOCKS, "KV cache blocks given back by evictions.", label, registry=registry).labels(
            model
        )
        text = "Keys and values held by running requests: tokens times KV heads times layers."
        mode = "mostrecent"
        self._entries = Gauge(ENTRIES, text, label, registry=registry, multiprocess_mode=mode).labels(model)
        self._told = (0, 0)
        self._counted = (0, 0)
        self._last_log = 0.0

    def update(self, prompts: int, blocks: int, entries: int) -> None:
        """Take what was counted since the start, and what is held now; logs it every ten seconds if it changed."""
        self._prompts.inc(prompts - self._counted[0])
        self._blocks.inc(blocks - self._counted[1])
        self._entries.set(entries)
        self._counted = prompts, blocks
        now = time.monotonic()
        if self._told != self._counted and now - self._last_log >= _LOG_SECONDS:
            logger.info(
                "lavakv: %d prompts evicted and %d KV cache blocks given back since the start; running requests hold"
                " %d entries",
                prompts, blocks, entries,
            )  # fmt: skip
            self._told, self._last_log = self._counted, now
