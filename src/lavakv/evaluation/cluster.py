"""Prompts spread over the workers of a Ray cluster. Ray places them, and retries those of a lost worker elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from lavakv.errors import InputError, LavaError, MissingExtraError, WorkerError
from lavakv.evaluation.examine import examine
from lavakv.evaluation.executor import Assignment, Executor
from lavakv.evaluation.prompt import Prompt
from lavakv.evaluation.provenance import about
from lavakv.evaluation.record import Measurement
from lavakv.evaluation.settings import EvalSettings
from lavakv.models.load import LoadedModel, load, resolve

MAX_RETRIES = 3
ModelKey = tuple[str, str, str, str | None]


class RayExecutor(Executor):
    """The workers of a Ray cluster; each loads the model once and takes a prompt at a time.

    Args:
        settings: which model, and how to load it.
        address: of a running cluster; None uses RAY_ADDRESS or a cluster on this machine, else starts one.
        cpus: CPU cores a prompt takes; where the cluster has GPUs, it takes one of these instead.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: no cluster at that address, or one with too few cores.
    """

    def __init__(self, settings: EvalSettings, address: str | None = None, cpus: int = 1) -> None:
        self._ray = _started(address)
        source = resolve(settings.model)
        self.tokenizer, self.config = AutoTokenizer.from_pretrained(source), AutoConfig.from_pretrained(source)
        self._model: ModelKey = (settings.model, settings.dtype, settings.device, settings.attention)
        offered = self._ray.cluster_resources()
        has_gpus = offered.get("GPU", 0) > 0 and settings.device != "cpu"
        self._needs = {"num_gpus": 1, "num_cpus": 0} if has_gpus else {"num_cpus": cpus}
        self.num_workers = int(offered["GPU"] if has_gpus else offered.get("CPU", 0) // cpus)
        if not self.num_workers:
            raise InputError(
                "--ray-cpus", expected=f"at most the {offered.get('CPU', 0):g} cores of the cluster", got=str(cpus),
                fix="Use fewer.",
            )  # fmt: skip

    def about_model(self) -> dict[str, Any]:
        """See `Executor`; a worker answers."""
        about_model: dict[str, Any] = self._get(self._remote(_about).remote(self._model))
        return about_model

    def answers(self, assignments: Sequence[Assignment]) -> Iterator[tuple[Prompt, Measurement]]:
        """See `Executor`; prompts come in the order in which they are done."""
        examined = self._remote(_examined)
        waiting = [examined.remote(self._model, assignment) for assignment in assignments]
        try:
            while waiting:
                done, waiting = self._ray.wait(waiting)
                yield from self._get(done[0])
        finally:
            for left in waiting:
                self._ray.cancel(left)

    def _remote(self, function: Any) -> Any:
        return self._ray.remote(max_retries=MAX_RETRIES, **self._needs)(function)

    def _get(self, reference: Any) -> Any:
        """What a worker returned, or its error as it was there."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, LavaError):
                raise error.cause from None
            raise
        except self._ray.exceptions.WorkerCrashedError as error:
            raise WorkerError(
                "Ray worker", expected="one that finishes the prompt", got=f"{MAX_RETRIES + 1} that died at it",
                fix="Finished records are kept. Check that memory suffices, then rerun the same command to resume.",
            ) from error  # fmt: skip


def _started(address: str | None) -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError(
            "ray", expected="an installed package", got="none", fix="Run: pip install 'lavakv[ray]'."
        ) from error
    try:
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise InputError(
            "--ray-address",
            expected="a running Ray cluster",
            got=f"none at {address}",
            fix="Start one with `ray start`.",
        ) from error
    return ray


@lru_cache(maxsize=1)
def _loaded(model: ModelKey) -> LoadedModel:
    """The model, loaded once in each worker."""
    name, dtype, device, attention = model
    return load(name, dtype=dtype, device=device, attention=attention)


def _about(model: ModelKey) -> dict[str, Any]:
    return about(_loaded(model).model)


def _examined(model: ModelKey, assignment: Assignment) -> list[tuple[Prompt, Measurement]]:
    return list(examine(_loaded(model), assignment))
