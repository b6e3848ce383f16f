"""Available kernels, and the attention that a decode step takes on each device."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_HEAD_DIM, _WINDOW, _TOKENS, _KEPT = 64, 4, 48, 16


def c_kernels() -> dict[str, Any]:
    """Whether the C kernels for CPUs are used, from which file, and if not, why."""
    from lavakv.attention.native import kernel
    from lavakv.native.build import SWITCH, compiler, folder, library

    kept_in = str(folder())
    if os.environ.get(SWITCH) == "0":
        return {"used": False, "reason": f"{SWITCH}=0", "folder": kept_in}
    if compiler() is None:
        return {"used": False, "reason": "no C compiler (set CC, or install cc, gcc or clang)", "folder": kept_in}
    built = library(folder())
    if built is None:
        return {"used": False, "reason": "they could not be built or loaded", "folder": kept_in}
    about = {"folder": kept_in, "library": str(built._name)}
    if kernel() is None:
        return {"used": False, "reason": "they are built and disagree with PyTorch", **about}
    return {"used": True, "reason": None, **about}


def triton_refusals(device_names: list[str]) -> dict[str, str | None]:
    """Why the Triton kernels cannot run on each device; None where nothing known beforehand is against it."""
    import torch

    from lavakv.attention.triton.sizes import MODULE
    from lavakv.kernels import SWITCH, device_unsupported_reason

    if os.environ.get(SWITCH) == "0":
        return dict.fromkeys(device_names, f"{SWITCH}=0")
    return {name: device_unsupported_reason(torch.device(name), MODULE) for name in device_names}


def decode_paths(device_names: list[str]) -> dict[str, str]:
    """The attention that a decode step takes, by device and dtype: what `lavakv.attention` chooses for a small store.

    Nothing is computed but the store itself.
    """
    import torch

    dtypes = {"cpu": (torch.float32, torch.bfloat16)}
    found = {}
    for name in device_names:
        for dtype in dtypes.get(name, (torch.bfloat16, torch.float16, torch.float32)):
            found[f"{name} {str(dtype).removeprefix('torch.')}"] = _path(torch.device(name), dtype)
    return found


def _path(device: torch.device, dtype: torch.dtype) -> str:
    import torch

    from lavakv.attention.native import attend_native
    from lavakv.attention.plan import KernelPath, choose, kernel_refusal, kernels_expected
    from lavakv.attention.request import AttentionRequest, AttentionSettings
    from lavakv.store.ragged import RaggedStore

    with torch.no_grad():
        store = RaggedStore()
        keys = torch.zeros(1, 1, _TOKENS, _HEAD_DIM, device=device, dtype=dtype)
        store.hold(keys, keys.clone())
        store.keep([torch.arange(_KEPT, device=device)[None]], [[_KEPT]], _WINDOW)
        queries = torch.zeros(1, 1, 1, _HEAD_DIM, device=device, dtype=dtype)
        request = AttentionRequest(queries, AttentionSettings(_HEAD_DIM**-0.5))
        path = choose(store, request)
        if isinstance(path, KernelPath):
            return "Triton kernels"
        if path is attend_native:
            return "C kernels"
        reason = kernel_refusal(store, request) if kernels_expected(store, request) else None
        return "PyTorch operators" if reason is None else f"PyTorch operators: {reason}"
