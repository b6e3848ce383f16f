"""One captured decode step: recorded with certain weights, tensors and arguments, and replayed for other contents."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from lavakv.hf.cache import LavaCache
from lavakv.hf.graph.backend import DeviceGraph
from lavakv.hf.graph.capturing import capturing
from lavakv.hf.graph.host_reads import RefuseHostReads
from lavakv.hf.graph.inputs import MASK, DecodeInputs
from lavakv.hf.graph.refusal import CannotCapture
from lavakv.hf.graph.static_step import StaticStep

if TYPE_CHECKING:
    from lavakv.hf.graph.compiled import CompiledLayers


class CapturedStep:
    """A decode step of a model on a cache, recorded.

    Refers to neither of them: it is freed with the cache, and keeps no weights.

    Args:
        model: whose forward is recorded.
        cache: holds a prompt and has capacity for the steps to come.
        inputs: of the first step.
        graph: records it.
        key: what must be the same for a call to be served by this; see `CapturedStep.fits`.
        compile_config: how to compile the model's layers, or None to run them as they are.

    Raises:
        CannotCapture: a step that depends on the host.
        Exception: whatever the model or the device raises.
    """

    def __init__(
        self,
        model: nn.Module,
        cache: LavaCache,
        inputs: DecodeInputs,
        graph: DeviceGraph,
        key: Hashable,
        compile_config: Any = None,
    ) -> None:
        self._key, self._graph = key, graph
        session, device = cache._state.session, inputs.input_ids.device
        self.step = StaticStep(cache.layers, session, device, inputs.mask is not None, cache._state.needs_norms)
        self._tensors, self._constants = inputs.copied(), inputs.constants
        self._columns_on_device: int | None = None
        self._load(cache, inputs)
        self.step.save()
        layers: CompiledLayers | None = None

        def run(layers: CompiledLayers | None) -> _Output:
            return self._run(model, cache, inputs.cache_name, layers)

        def prepare() -> None:
            nonlocal layers
            self._warm_up(lambda: run(None), device)
            if compile_config is not None:
                layers = _compiled(model, cache, self.step, compile_config, run)
                self._reset()

        try:
            self._output_class, self._outputs, self._cache_fields = graph.capture(prepare, lambda: run(layers))
            self._check_layers()
        finally:
            with session.changing():
                self.step.restore()  # a step that could not be captured leaves no trace, either
        self.step.forget_saved()

    def _warm_up(self, run: Callable[[], object], device: torch.device) -> None:
        """Run twice: what compiles kernels and plans their work may read from the device, what comes after may not."""
        run()
        self._reset()
        with RefuseHostReads(device):
            run()
        self._reset()

    def _reset(self) -> None:
        """Undo what a run has changed."""
        self._check_layers()
        self.step.restore()

    def _check_layers(self) -> None:
        if not all(layer.fits() for layer in self.step.layers):
            raise CannotCapture("a layer of the cache puts new tensors in the place of its own at every step")

    def _run(
        self, model: nn.Module, cache: LavaCache, cache_name: str, layers: CompiledLayers | None = None
    ) -> _Output:
        """The model's own forward as a static step, with compiled layers or without."""
        mask = {} if not self.step.masked else {MASK: self.step.mask}
        with capturing(cache, self.step), nullcontext() if layers is None else layers.installed():
            self.step.begin(self._tensors["input_ids"])
            output = model(**self._tensors, **self._constants, **mask, **{cache_name: cache})
            self.step.end()
        return _Output.of(output, cache)

    def fits(self, cache: LavaCache, key: Hashable) -> bool:
        """Whether a call can be served: the same kind of call, and everything the cache holds where it was."""
        return key == self._key and self.step.fits(cache.layers, cache._state.session) and self.step.num_spare > 0

    def _load(self, cache: LavaCache, inputs: DecodeInputs) -> None:
        for name, tensor in inputs.tensors.items():
            self._tensors[name].copy_(tensor)
        session = cache._state.session
        if session.columns.length != self._columns_on_device or not session.log.counts(self.step.log):
            self.step.load()
        if inputs.mask is not None:
            self.step.load_mask(inputs.mask)

    def replay(self, cache: LavaCache, inputs: DecodeInputs) -> ModelOutput:
        """Do the step for other inputs, and count it on the host while the device works.

        Returns:
            What the model's forward would have returned.
        """
        self._graph.wait()  # the last replay may still read, on another stream, what is written next
        self._load(cache, inputs)
        self._columns_on_device = None  # unknown if what follows is interrupted
        self._graph.replay()
        outputs = {name: tensor.clone() for name, tensor in self._outputs.items()}
        with cache._state.session.changing():
            self.step.advance()
        self._columns_on_device = cache._state.session.columns.length
        return self._output_class(**outputs, **dict.fromkeys(self._cache_fields, cache))


def _compiled(
    model: nn.Module, cache: LavaCache, step: StaticStep, config: Any, trial: Callable[[CompiledLayers], object]
) -> CompiledLayers | None:
    from lavakv.hf.graph.compiled import compiled_layers  # registers an operator, which few need

    return compiled_layers(model, cache, step, config, trial)


class _Output(NamedTuple):
    """What a model's forward returned.

    Attributes:
        kind: its class.
        tensors: by name.
        cache_fields: names under which it returns the cache.
    """

    kind: type[ModelOutput]
    tensors: dict[str, Tensor]
    cache_fields: list[str]

    @classmethod
    def of(cls, output: Any, cache: LavaCache) -> _Output:
        """Take an output apart.

        Raises:
            CannotCapture: anything but tensors and the cache in it.
        """
        if not isinstance(output, ModelOutput):
            raise CannotCapture(f"the model returns a {type(output).__name__}")
        given = {name: value for name, value in output.items() if value is not None}
        for name, value in given.items():
            if value is not cache and not isinstance(value, Tensor):
                raise CannotCapture(f"the model returns {name}, a {type(value).__name__}")
        tensors = {name: value for name, value in given.items() if value is not cache}
        return cls(type(output), tensors, [name for name in given if name not in tensors])
