"""What a captured forward depends on besides its inputs: where the model's weights are, its modules and their hooks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import count
from operator import itemgetter
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
_is_training = itemgetter("training")
_versions = count(1)  # of all models: one that takes the place of another in memory must not be taken for it


class ModelWatch:
    """Notices when a captured forward of a model would no longer compute what the model computes.

    Belongs to the model, so that what is recorded for a cache keeps no weights alive.

    Args:
        model: whose forward is captured.

    Attributes:
        version: another number whenever something has changed, and for every model.
        refusal: why no forward of the model can be captured, or None.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.version = 0
        self.refusal: str | None = None
        self._signature: tuple[Any, ...] | None = None
        self._parts = _Parts([])
        self._addresses: list[int] = []
        self._adapters: list[tuple[dict[str, Any], str, Any]] = []
        self._hooks_made, self._settings = -1, dict[str, Any]()

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelWatch:
        return ModelWatch(memo.get(id(self._model), self._model))

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelWatch, (self._model,)

    @property
    def device(self) -> torch.device | None:
        """Where the weights are, or None for a model without any."""
        return self._parts.weights[0].device if self._parts.weights else None

    def check(self) -> int:
        """Compare what can change between two tokens, and return the version: weights, modules, hooks, adapters."""
        changed = (
            RemovableHandle.next_id != self._hooks_made
            or self._settings_now() != self._settings
            or any(state.get(name) != before for state, name, before in self._adapters)
            or self._parts.changed()
            or self._parts.addresses() != self._addresses
        )
        return self.refresh() if changed else self.version

    def refresh(self) -> int:
        """Compare everything, and return the version."""
        modules = list(self._model.modules())
        self._hooks_made, self._settings = RemovableHandle.next_id, dict(self._settings_now())
        self._adapters = [
            (module.__dict__, name, copy.copy(module.__dict__[name]))
            for module in modules for name in _ADAPTER_STATE if name in module.__dict__
        ]  # fmt: skip
        before, self._parts = self._parts, _Parts(modules)  # what was there lives on until it is compared
        self._addresses, self.refusal = [], None
        try:
            self._addresses = self._parts.addresses()
        except Exception as error:  # tensor subclasses may have no address
            self.refusal = f"a weight has no address on a device ({type(error).__name__}: {error})"
            self._parts = _Parts([])
        self.refusal = self.refusal or self._reason(modules)
        signature = (
            [id(tensor) for tensor in self._parts.weights], self._addresses,
            [(id(module), module.training, "forward" in module.__dict__) for module in modules],
            [repr(value) for _, _, value in self._adapters], self._settings, self.refusal,
        )  # fmt: skip
        if signature != self._signature:
            self._signature, self.version = signature, next(_versions)
        del before
        return self.version

    def _settings_now(self) -> dict[str, Any]:
        """The model's configuration, which says how attention and experts are computed."""
        return getattr(getattr(self._model, "config", None), "__dict__", {})

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
        weights = self._parts.weights
        devices = {str(tensor.device) for tensor in weights}
        if len(devices) > 1:
            return f"the model's weights are on several devices ({', '.join(sorted(devices))})"
        if any(hasattr(tensor, "device_mesh") for tensor in weights):
            return "the model's weights are distributed"
        return None


class _Parts:
    """What some modules consist of.

    Compared as dictionaries, which PyTorch's modules are made of: the interpreter does that in C, and an entry that is
    the same object costs it no more than a look at two pointers.

    Args:
        modules: all of a model.

    Attributes:
        weights: weights and buffers.
    """

    def __init__(self, modules: list[nn.Module]) -> None:
        self._modes = [module.__dict__ for module in modules if "training" in module.__dict__]
        self._any_training = any(map(_is_training, self._modes))
        owners = [owner for module in modules for owner in (module._parameters, module._buffers) if owner]
        self._owners = [module._modules for module in modules if module._modules] + owners
        self._before = [dict(owner) for owner in self._owners]
        named = [(owner, name, tensor) for owner in owners for name, tensor in owner.items() if tensor is not None]
        self.weights: list[Tensor] = [tensor for _, _, tensor in named]
        self._single = [entry for entry in named if entry[2].numel() == 1]

    def addresses(self) -> list[int]:
        """Where the weights are."""
        return list(map(Tensor.data_ptr, self.weights))

    def changed(self) -> bool:
        """Whether a module, weight or buffer has come, gone or been replaced, or training has begun or ended."""
        if any(map(_is_training, self._modes)) != self._any_training:
            return True
        if any(owner.get(name) is not tensor for owner, name, tensor in self._single):  # these compare by value
            return True
        try:
            return self._owners != self._before
        except Exception:  # tensors that are not the same object have no truth value
            return True


def _foreign_hooks(module: nn.Module) -> Iterator[str]:
    """Names of hooks around a module's forward that neither lavakv nor transformers has set."""
    for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
        function = getattr(hook, "func", hook)
        if str(getattr(function, "__module__", "")).partition(".")[0] not in _OWN:
            yield getattr(function, "__qualname__", type(function).__name__)
