"""vLLM's worker with lavakv's attention backend; importing this registers that of the platform in this process."""

from __future__ import annotations

from typing import Any

from vllm.platforms import current_platform
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

from lavakv.policy.registry import get_policy
from lavakv.vllm.checks import check_configuration, check_layers
from lavakv.vllm.model_parts import ModelParts
from lavakv.vllm.settings import Settings
from lavakv.vllm.state import WorkerState, install, logger

_IS_CPU = current_platform.is_cpu()
if _IS_CPU:
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker

    register_backend(AttentionBackendEnum.CPU_ATTN, "lavakv.vllm.backend.Backend")
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker

    register_backend(AttentionBackendEnum.TRITON_ATTN, "lavakv.vllm.triton_backend.TritonBackend")


class Worker(PlatformWorker):
    """Checks the configuration before the model is loaded, and lets the backend see the runner's batch."""

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        self.lavakv = WorkerState(Settings.of(vllm_config.additional_config))
        check_configuration(vllm_config, self.lavakv.settings)
        if not _IS_CPU:
            logger.warning("lavakv: this backend is untested on a GPU; compare its answers with those of a LavaCache")
            vllm_config.attention_config.backend = AttentionBackendEnum.TRITON_ATTN
        install(self.lavakv)
        super().__init__(vllm_config, *args, **kwargs)

    def init_device(self) -> None:
        """See the base class."""
        super().init_device()
        self.lavakv.runner = self.model_runner

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """What the model said in a step; requests that failed in it go to the scheduler beside it."""
        output = super().sample_tokens(*args, **kwargs)
        if failed := self.lavakv.take_failed():
            output.lavakv_failed = failed
        return output

    def get_kv_cache_spec(self) -> Any:
        """The layers' specs, checked, and with them what the policy needs of the model."""
        specs = super().get_kv_cache_spec()
        check_layers(specs)
        ModelParts(self.model_runner.get_model(), list(specs)).check(get_policy(self.lavakv.settings.policy))
        return specs
