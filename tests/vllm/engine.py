"""An engine in this process, and what tests look at inside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vllm import LLM, SamplingParams

from lavakv.vllm import engine_arguments
from lavakv.vllm.prompts import ReadPrompt
from lavakv.vllm.state import installed
from tests.oracle.forwards import Capture
from tests.vllm.model import Answer, answers

KEEP, WINDOW, PAGE, BLOCKS = 0.25, 16, 32, 400


class Engine:
    """vLLM with eviction, driven a step at a time or as a whole."""

    def __init__(self, folder: Path, dtype: str = "float32") -> None:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        self.llm = LLM(
            str(folder), dtype=dtype, enforce_eager=True, num_gpu_blocks_override=BLOCKS,
            kv_cache_memory_bytes=1 << 28, max_model_len=2048, max_num_batched_tokens=4096, max_num_seqs=32,
            distributed_executor_backend="uni", **engine_arguments(keep=KEEP, window=WINDOW),
        )  # fmt: skip
        self.core = self.llm.llm_engine.engine_core.engine_core
        self.scheduler = self.core.scheduler
        self.state = installed()
        self.prompts: dict[str, Any] = {}
        self.evicted: dict[str, Any] = {}
        self.state.on_evicted.append(self._note)
        self._number = 0

    def _note(self, prompt: Any, selection: Any) -> None:
        name = prompt.plan.request_id.rsplit("-", 1)[0]
        self.prompts[name], self.evicted[name] = prompt, selection

    def sampling(self, count: int, **extra: Any) -> SamplingParams:
        """Greedy, `count` tokens with their log probabilities."""
        return SamplingParams(temperature=0, max_tokens=count, logprobs=0, ignore_eos=True, extra_args=extra or None)

    def generate(self, prompts: Sequence[list[int]], count: int = 12, **extra: Any) -> list[Answer]:
        """Answers to prompts that come at once."""
        inputs = [{"prompt_token_ids": tokens} for tokens in prompts]
        results = self.llm.generate(inputs, self.sampling(count, **extra), use_tqdm=False)
        return answers(results, self.evicted)

    def add(self, tokens: list[int], count: int, **extra: Any) -> str:
        """Begin a request that `run` steps; its name."""
        self._number += 1
        name = f"own{self._number}"
        self.llm.llm_engine.add_request(name, {"prompt_token_ids": tokens}, self.sampling(count, **extra))
        return name

    def step(self) -> dict[str, Any]:
        """One step; outputs of the requests that it ended."""
        return {done.request_id: done for done in self.llm.llm_engine.step() if done.finished}

    def run(self, done: dict[str, Any] | None = None) -> dict[str, Answer]:
        """Step until nothing is left."""
        done = dict(done or {})
        while self.llm.llm_engine.has_unfinished_requests():
            done |= self.step()
        return {name: answers([result], self.evicted)[0] for name, result in done.items()}

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no request holds; all but the null block where none runs."""
        return self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()

    @property
    def is_empty(self) -> bool:
        """Whether all blocks are free."""
        return self.num_free_blocks == BLOCKS - 1

    def held_blocks(self) -> dict[str, list[int]]:
        """Block ids of each request, without those that were given back."""
        (manager,) = self.scheduler.kv_cache_manager.coordinator.single_type_managers
        return {
            name.rsplit("-", 1)[0]: [block.block_id for block in blocks if not block.is_null]
            for name, blocks in manager.req_to_blocks.items()
        }

    @contextmanager
    def policy(self, name: str):
        """Another policy in the worker."""
        before = self.state.settings
        self.state.settings = replace(before, policy=name)
        yield
        self.state.settings = before

    @contextmanager
    def chunks(self, tokens: int):
        """At most so many tokens a step."""
        before = self.scheduler.max_num_scheduled_tokens
        self.scheduler.max_num_scheduled_tokens = tokens
        yield
        self.scheduler.max_num_scheduled_tokens = before


@contextmanager
def captured() -> Iterator[dict[int, Capture]]:
    """Note queries of the window, keys and values of each layer that the worker scores, as the reference takes them."""
    captures: dict[int, Capture] = {}
    score = ReadPrompt.score

    def note(self: Any, layer: int, keys: Tensor, values: Tensor, scaling: float, *more: Any) -> None:
        queries = torch.cat(self._queries[layer]).transpose(0, 1)
        captures[layer] = Capture(queries[None], keys[None], values[None], scaling, None, None)
        score(self, layer, keys, values, scaling, *more)

    ReadPrompt.score = note  # type: ignore[method-assign]
    try:
        yield captures
    finally:
        ReadPrompt.score = score  # type: ignore[method-assign]
