"""Devices, dtypes and attention implementations by name, before PyTorch is loaded."""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util

import pytest

from lavakv import InputError
from lavakv.models import choices
from lavakv.models.choices import cuda_missing_reason, require_attention, require_device, require_dtype


@pytest.mark.parametrize("name", ["auto", "cpu", "cpu:0", "mps", "xpu:1"])
def test_devices_that_may_be_there(name) -> None:
    require_device(name)


@pytest.mark.parametrize("name", ["abacus", "CPU", "cuda:", "cuda:x", "", "meta", "cpu,cuda"])
def test_names_that_are_no_device(name) -> None:
    with pytest.raises(InputError, match=r"^--device: expected auto"):
        require_device(name, "--device")


def test_a_package_may_bring_a_device_of_another_name(monkeypatch) -> None:
    monkeypatch.setattr(choices, "_has_other_backends", lambda: True)
    require_device("npu")
    with pytest.raises(InputError):
        require_device("NPU")


def test_our_own_entry_point_brings_no_device() -> None:
    assert not choices._has_other_backends()


@pytest.mark.parametrize(
    ("build", "driver", "reason"),
    [
        ({"__version__": "2.11.0+cpu", "cuda": None, "hip": None}, False, "PyTorch 2.11.0+cpu is built without CUDA"),
        ({"__version__": "2.11.0", "cuda": "12.8", "hip": None}, False, "no NVIDIA driver is installed"),
        ({"__version__": "2.11.0", "cuda": "12.8", "hip": None}, True, None),
        ({"__version__": "2.11.0", "cuda": None, "hip": "6.4"}, False, None),
        ({}, False, None),
    ],
)
def test_cuda_that_cannot_be_there_is_refused_early(build, driver, reason, monkeypatch) -> None:
    def load(_: str) -> None:
        if not driver:
            raise OSError

    monkeypatch.setattr(choices, "_torch_build", lambda: build)
    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr("sys.platform", "linux")
    assert cuda_missing_reason() == reason
    if reason is None:
        require_device("cuda:1")
        return
    with pytest.raises(InputError, match=reason.replace("+", r"\+")):
        require_device("cuda")


def test_the_build_that_is_installed_is_read_without_importing_it() -> None:
    import torch

    assert choices._torch_build()["__version__"] == torch.__version__


@pytest.mark.parametrize("name", ["auto", "float32", "bfloat16", "float16"])
def test_dtypes(name) -> None:
    require_dtype(name)


@pytest.mark.parametrize(
    "name", [None, "sdpa", "eager", "flex_attention", "flash_attention_2", "paged|sdpa", "kernels-community/flash-attn"]
)
def test_attention_implementations(name) -> None:
    require_attention(name)


def test_a_name_that_a_newer_transformers_brings_is_taken(tmp_path, monkeypatch) -> None:
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").touch()
    (tmp_path / "transformers" / "modeling_utils.py").write_text('_global_mapping = {"quick_attention": 1}')
    spec = importlib.machinery.PathFinder.find_spec("transformers", [str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    require_attention("quick_attention")
    with pytest.raises(InputError):
        require_attention("slow_attention")


@pytest.mark.parametrize("name", ["", "sdap", "flash", "sdpa ", "flash_attention_two"])
def test_names_that_are_no_attention_implementation(name) -> None:
    with pytest.raises(InputError, match=r"^attention: expected an attention implementation"):
        require_attention(name)
