"""Models with adapters of PEFT; whoever imports this is skipped where PEFT is not installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.hf import zoo

peft = pytest.importorskip("peft", reason="PEFT is not installed")

PROMPT, NEW = 60, 6
EVERYWHERE = ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]


def lora(**settings: Any) -> Any:
    return peft.LoraConfig(r=4, lora_alpha=8, target_modules=EVERYWHERE, lora_dropout=0.1, **settings)


CONFIGS = {
    "lora": lambda: lora(),
    "rslora": lambda: lora(use_rslora=True),
    "dora": lambda: lora(use_dora=True),
    "ia3": lambda: peft.IA3Config(
        target_modules=["k_proj", "v_proj", "o_proj", "down_proj"], feedforward_modules=["o_proj", "down_proj"]
    ),
    "loha": lambda: peft.LoHaConfig(r=4, target_modules=EVERYWHERE),
    "oft": lambda: peft.OFTConfig(r=0, oft_block_size=4, target_modules=["o_proj"]),
}


def trained(model: nn.Module, seed: int) -> nn.Module:
    """As if an adapter had been trained: its numbers, zero or one at first, are far from that."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            with torch.no_grad():
                parameter.add_(noise.abs() if "magnitude" in name else noise)
    return model.eval()


def prompts(batch: int = 2) -> dict[str, torch.Tensor]:
    ids = zoo.prompt(PROMPT, batch=batch)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
