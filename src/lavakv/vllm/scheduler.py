"""vLLM's scheduler with the one rule that eviction needs, and per-request budgets for the block manager."""

from __future__ import annotations

from copy import copy
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler as VllmScheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.request import RequestStatus

from lavakv.errors import UnsupportedError
from lavakv.vllm.metrics import Metrics
from lavakv.vllm.settings import REQUEST_PREFIX
from lavakv.vllm.spec import EvictingManager


class Scheduler(VllmScheduler):
    """No chunk crosses the end of a prompt, where the worker evicts; a request that is resumed replays its output."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        managers = self.kv_cache_manager.coordinator.single_type_managers
        if len(managers) != 1 or not isinstance(managers[0], EvictingManager):
            raise UnsupportedError(
                "lavakv in vLLM: scheduler",
                expected="lavakv's worker beside it, and one KV cache group",
                got=", ".join(type(manager).__name__ for manager in managers),
                fix="Pass --worker-cls lavakv.vllm.Worker too, or use another model.",
            )
        (manager,) = managers
        manager.requests = self.requests
        manager.num_layers = len(self.kv_cache_config.kv_cache_groups[0].layer_names)
        self.evicting_manager = manager
        self.metrics = Metrics(self.vllm_config.model_config.served_model_name) if self.log_stats else None

    def add_request(self, request: Any) -> None:
        """Take a request; a session whose input comes in parts is kept whole, because its prompt grows later."""
        if request.resumable or request.request_id in self.requests:
            request.sampling_params = copy(request.sampling_params)
            others = request.sampling_params.extra_args or {}
            others = {name: value for name, value in others.items() if not name.startswith(REQUEST_PREFIX)}
            request.sampling_params.extra_args = others | {f"{REQUEST_PREFIX}keep": 1.0}
        super().add_request(request)

    def _reserve_prefill_lookahead(self, request: Any, num_computed_tokens: int, num_new_tokens: int) -> int:
        """New tokens of a request in this step, none beyond the end of its prompt while that is being read."""
        allowed: int = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        left = request.num_prompt_tokens - num_computed_tokens
        return min(allowed, left) if left > 0 else allowed

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> dict[int, EngineCoreOutputs]:
        """Outputs by client; requests that the worker could not evict end with an error, and the others go on."""
        failed_ids = getattr(model_runner_output, "lavakv_failed", ())
        failed = self.finish_requests(failed_ids, RequestStatus.FINISHED_ERROR) if failed_ids else []
        outputs: dict[int, EngineCoreOutputs] = super().update_from_output(scheduler_output, model_runner_output)
        for request in failed:
            ended = EngineCoreOutput(
                request.request_id, [], finish_reason=request.get_finished_reason(), events=request.take_events(),
                trace_headers=request.trace_headers,
            )  # fmt: skip
            outputs.setdefault(request.client_index, EngineCoreOutputs()).outputs.append(ended)
        return outputs

    def make_stats(self, *args: Any, **kwargs: Any) -> Any:
        """VLLM's statistics of a step; ours are exported beside them."""
        if self.metrics is not None:
            manager = self.evicting_manager
            held = sum(manager.entries_held(request) for request in self.running)
            self.metrics.update(manager.prompts_cut, manager.blocks_freed, held)
        return super().make_stats(*args, **kwargs)
