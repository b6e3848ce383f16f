"""A script: an engine with a small model of another architecture, of which a process holds one; saves its answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lavakv.errors import UnsupportedError
from lavakv.policy.registry import get_policy
from tests.vllm.model import NUM_HEADS, NUM_LAYERS, VOCABULARY, prompt, save_tokenizer

POLICIES = ["residual", "residual-max", "reach"]
PROMPT = (700, 3)
# All but Qwen 2 have a norm behind the output projection. OLMo 2 runs in layers of transformers inside vLLM, without a
# rotary embedding of their own, and the layers of EXAONE 4 take the residual stream in one piece.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gemma3_text": {"layer_types": ["full_attention"] * NUM_LAYERS, "query_pre_attn_scalar": 32, "head_dim": 32},
    "olmo2": {},
    "qwen2": {
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 2.0,
            "rope_theta": 10_000.0,
            "original_max_position_embeddings": 2048,
        },
    },
    "exaone4": {"layer_types": ["full_attention"] * NUM_LAYERS, "sliding_window": None, "head_dim": 32},
}
_SHARPER = 3.0  # random queries and keys agree about everything


def make(kind: str, folder: Path) -> Path:
    """Save a model whose norms have gains of their own, and a tokenizer."""
    torch.manual_seed(5)
    config = AutoConfig.for_model(
        kind, vocab_size=VOCABULARY, hidden_size=192, intermediate_size=128, num_hidden_layers=NUM_LAYERS,
        num_attention_heads=6, num_key_value_heads=NUM_HEADS, max_position_embeddings=4096, pad_token_id=1,
        bos_token_id=None, eos_token_id=2, tie_word_embeddings=True, **ARCHITECTURES[kind],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            large = "embed" in name  # the stream that enters is about as long as what layers add
            torch.nn.init.normal_(parameter, std=1.0 if large else parameter.shape[-1] ** -0.5)
        else:
            parameter.data.mul_(_SHARPER if "q_norm" in name else 1.0).add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def main(folder: str, out: str) -> None:
    from tests.vllm.engine import Engine

    engine = Engine(Path(folder))
    engine.generate([prompt(20, 0)], count=1)  # the state learns of the layers in the first step
    found: dict[str, Any] = {}
    for name in POLICIES:
        try:
            engine.state.parts.check(get_policy(name))
        except UnsupportedError as error:
            found[name] = str(error)
            continue
        with engine.policy(name):
            (whole,) = engine.generate([prompt(*PROMPT)], count=6)
            with engine.chunks(230):
                (parts,) = engine.generate([prompt(*PROMPT)], count=6)
        found[name] = [tuple(whole), tuple(parts)]
    torch.save(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
