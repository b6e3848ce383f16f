"""`generate` with a compressed KV cache, for transformers' `custom_generate`; see the README beside this folder."""

from lavakv.hf.custom_generate import generate

__all__ = ["generate"]
