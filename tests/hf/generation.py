"""Generation in ways whose answers can be compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lavakv.hf.contract import cache_argument
from tests.hf import zoo

KINDS = ["llama", "qwen2", "gemma3_text", "gpt_oss"]
PROMPT, NEW = 40, 16
ABOVE = 512  # a budget that nothing is evicted at
SPECULATION = ["prompt_lookup_num_tokens", "assistant_model", "assistant_early_exit"]


def speculative(name: str, kind: str) -> dict[str, Any]:
    """The option that has tokens drafted."""
    if name == "assistant_model":
        # Where transformers 5.17 can, the model itself, which agrees with the compressed one until it does not; there,
        # an assistant with sliding layers cannot draft two tokens with any cache.
        own = kind in ("llama", "qwen2")
        assistant = zoo.tiny(kind if own else "llama", torch.float64, **({} if own else {"num_hidden_layers": 2}))
        assistant.generation_config.assistant_confidence_threshold = 0.0
        return {name: assistant}
    return {name: 3 if name.startswith("prompt") else 1}


def text(batch: int = 1) -> Tensor:
    """A prompt that says everything twice, so that there is something to look up."""
    half = zoo.prompt(PROMPT // 2, batch=batch)
    return torch.cat([half, half], dim=1)


def generate(model: nn.Module, cache: object, ids: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Token ids and the logits of every new one."""
    torch.manual_seed(3)
    asked = {"max_new_tokens": NEW, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    output = model.generate(ids, **cache_argument(model, cache), **asked | options)
    return output.sequences, torch.stack(output.logits, dim=1)


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Equal tokens; logits, which `generate` turns into float32, equal but for its rounding."""
    assert found[0].equal(expected[0])
    assert torch.allclose(found[1], expected[1], rtol=1e-6, atol=1e-6)


def forwards(model: nn.Module) -> list[int]:
    """Counts in its only element the forwards of a model from now on."""
    count = [0]
    model.register_forward_hook(lambda *_: count.__setitem__(0, count[0] + 1))
    return count
