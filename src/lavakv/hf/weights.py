"""Which weights of a model can be read as they lie, and which models have weights that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lavakv.errors import UnsupportedError

_READABLE = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
_FLOAT8 = {value for name, value in vars(torch).items() if name.startswith("float8_")}
_LINEAR_FORWARDS = {nn.Linear.forward, Conv1D.forward}


def plain_weight(module: nn.Module) -> Tensor | None:
    """The weight of a linear layer as `[inputs, outputs]`, a view, where reading it tells all that the layer does.

    That is so for an `nn.Linear` or `Conv1D` with a dense tensor of an ordinary dtype. None wherever something else has
    a say: another class, a tensor subclass, float8, meta, a parametrisation, hooks, an offloading `forward`.
    """
    weight = module._parameters.get("weight")
    if not _is_plain_linear(module) or type(weight) is not nn.Parameter:
        return None
    if weight.dtype not in _READABLE or weight.layout is not torch.strided or weight.is_meta or weight.ndim != 2:
        return None
    return weight if isinstance(module, Conv1D) else weight.T


def check_weights_loaded(decoder: nn.Module) -> None:
    """Check that nothing but real, scaled weights would enter a forward; a walk over all modules, about 0.3 ms for 400.

    Raises:
        UnsupportedError: a tensor on the meta device that no offloading hook brings, or float8 weights in a linear
            layer that knows no scales; the first one is named.
    """
    if not _any_odd(decoder):
        return
    for name, module, is_brought in _with_hooks(decoder, "", False):
        for own, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and tensor.is_meta and not is_brought:
                raise UnsupportedError(
                    f"model weight {f'{name}.{own}'.lstrip('.')!r}",
                    expected="a loaded tensor",
                    got="one on the meta device, which holds no numbers, without a hook that loads it",
                    fix="Load the model with `from_pretrained`, or offload it with accelerate's `dispatch_model`.",
                )
        if is_unscaled(module):
            raise unscaled(f"model weight {f'{name}.weight'.lstrip('.')!r}", module)


def _any_odd(decoder: nn.Module) -> bool:
    """Whether the hooks must be examined at all; faster than PyTorch's own way through the modules."""
    modules = [decoder]
    while modules:
        module = modules.pop()
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                if tensor is not None and (tensor.is_meta or tensor.dtype in _FLOAT8):
                    return True
        modules.extend(child for child in module._modules.values() if child is not None)
    return False


def is_unscaled(module: nn.Module) -> bool:
    """Whether this is a linear layer with float8 weights that nothing scales."""
    weight = module._parameters.get("weight")
    return type(weight) is nn.Parameter and weight.dtype in _FLOAT8 and _is_plain_linear(module)


def unscaled(argument: str, module: nn.Module) -> UnsupportedError:
    """The error for what `is_unscaled` finds."""
    return UnsupportedError(
        argument,
        expected="float8 weights in a layer that knows their scales",
        got=f"{_dtype_of(module)} in a plain {type(module).__name__}",
        fix="Load the model with the quantization config of its checkpoint, or convert it to bfloat16.",
    )


def _dtype_of(module: nn.Module) -> str:
    weight = module._parameters["weight"]
    return "no weight" if weight is None else str(weight.dtype).removeprefix("torch.")


def _is_plain_linear(module: nn.Module) -> bool:
    """Whether calling the module does what `nn.Linear` or `Conv1D` does, and nothing before or after."""
    if type(module).forward not in _LINEAR_FORWARDS or module._forward_pre_hooks or module._forward_hooks:
        return False
    if "forward" not in module.__dict__:
        return True
    hooks, replaced = _accelerate_hooks(module), module.__dict__.get("_old_forward")
    only_moves_inputs = bool(hooks) and all(getattr(hook, "offload", True) is False for hook in hooks)
    return only_moves_inputs and getattr(replaced, "__func__", None) in _LINEAR_FORWARDS


def _accelerate_hooks(module: nn.Module) -> tuple[Any, ...]:
    hook = module.__dict__.get("_hf_hook")
    return () if hook is None else tuple(getattr(hook, "hooks", (hook,)))


def _with_hooks(module: nn.Module, name: str, is_inherited: bool) -> Iterator[tuple[str, nn.Module, bool]]:
    """All modules with their names, and whether an accelerate hook brings the tensors of each before it runs."""
    offloading = [hook for hook in _accelerate_hooks(module) if getattr(hook, "offload", True)]
    yield name, module, is_inherited or bool(offloading)
    inherited = is_inherited or any(getattr(hook, "place_submodules", False) for hook in offloading)
    for child_name, child in module._modules.items():
        if child is not None:
            yield from _with_hooks(child, f"{name}.{child_name}".lstrip("."), inherited)
