"""What a captured forward depends on besides its inputs: where the model's weights are, its modules and their hooks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils.hooks import RemovableHandle

_OWN = ("lavakv", "transformers")  # packages whose hooks do nothing that a replay would miss
_ADAPTER_STATE = (  # by which layers with adapters branch in Python
    "_active_adapter",
    "_disable_adapters",
    "merged_adapters",
    "scaling",
)
_SWITCHES = ("_attn_implementation", "_experts_implementation", "use_cache")


class ModelWatch:
    """Notices when a captured forward of a model would no longer compute what the model computes.

    Belongs to the model, so that what is recorded for a cache keeps no weights alive.

    Args:
        model: whose forward is captured.

    Attributes:
        version: another number whenever something has changed.
        refusal: why no forward of the model can be captured, or None.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.version = 0
        self.refusal: str | None = None
        self._signature: tuple[Any, ...] | None = None
        self._tensors: list[tuple[dict[str, Any], str, Tensor, int]] = []
        self._adapters: list[tuple[dict[str, Any], str, Any]] = []
        self._hooks_made, self._is_training = (
            -1,
            False,
        )  # read when a forward is to be captured: copies are made in parts

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelWatch:
        return ModelWatch(memo.get(id(self._model), self._model))

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelWatch, (self._model,)

    @property
    def device(self) -> torch.device | None:
        """Where the weights are, or None for a model without any."""
        return self._tensors[0][2].device if self._tensors else None

    def check(self) -> int:
        """Compare what can change between two tokens, and return the version: weights, hooks, adapters."""
        changed = (
            RemovableHandle.next_id != self._hooks_made
            or self._model.training != self._is_training
            or any(state.get(name) != before for state, name, before in self._adapters)
        )
        for owner, name, tensor, address in self._tensors:
            if owner.get(name) is not tensor or tensor.data_ptr() != address:
                changed = True
                break
        return self.refresh() if changed else self.version

    def refresh(self) -> int:
        """Compare everything, and return the version."""
        modules = list(self._model.modules())
        self._hooks_made, self._is_training = RemovableHandle.next_id, self._model.training
        self._adapters = [
            (module.__dict__, name, copy.copy(module.__dict__[name]))
            for module in modules for name in _ADAPTER_STATE if name in module.__dict__
        ]  # fmt: skip
        self._tensors, self.refusal = [], None
        try:
            self._tensors = [(*slot, slot[2].data_ptr()) for module in modules for slot in _tensors_of(module)]
        except Exception as error:  # tensor subclasses may have no address
            self.refusal = f"a weight has no address on a device ({type(error).__name__}: {error})"
        self.refusal = self.refusal or self._reason(modules)
        config = getattr(self._model, "config", None)
        signature = (
            [(id(owner), name, id(tensor), address) for owner, name, tensor, address in self._tensors],
            [(id(module), module.training, "forward" in module.__dict__) for module in modules],
            [repr(value) for _, _, value in self._adapters],
            [getattr(config, name, None) for name in _SWITCHES], self.refusal,
        )  # fmt: skip
        if signature != self._signature:
            self._signature = signature
            self.version += 1
        return self.version

    def _reason(self, modules: list[nn.Module]) -> str | None:
        """Why a forward cannot be captured."""
        if any(module.training for module in modules):
            return "the model is in training mode; call `model.eval()`"
        if getattr(torch_module, "_global_forward_hooks", None) or getattr(
            torch_module, "_global_forward_pre_hooks", None
        ):
            return "hooks on all modules of the process would not run"
        for module in modules:
            if hasattr(module, "_hf_hook"):
                return f"{type(module).__name__} is moved between devices as it runs (accelerate)"
            foreign = next(_foreign_hooks(module), None)
            if foreign is not None:
                return f"a hook on {type(module).__name__} would not run ({foreign})"
        devices = {str(tensor.device) for _, _, tensor, _ in self._tensors}
        if len(devices) > 1:
            return f"the model's weights are on several devices ({', '.join(sorted(devices))})"
        if any(hasattr(tensor, "device_mesh") for _, _, tensor, _ in self._tensors):
            return "the model's weights are distributed"
        return None


def _tensors_of(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    for owner in (module._parameters, module._buffers):
        for name, tensor in owner.items():
            if tensor is not None:
                yield owner, name, tensor


def _foreign_hooks(module: nn.Module) -> Iterator[str]:
    """Names of hooks around a module's forward that neither lavakv nor transformers has set."""
    for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
        function = getattr(hook, "func", hook)
        if str(getattr(function, "__module__", "")).partition(".")[0] not in _OWN:
            yield getattr(function, "__qualname__", type(function).__name__)
