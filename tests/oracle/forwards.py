"""Forwards of the reference: a prompt that is recorded, and greedy text under a mask of survivors.

Both put an attention function of their own under the model and take it away again. Nothing here knows lavakv.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache

_NAME = "reference_attention"


@dataclass
class Capture:
    """What one layer's attention saw of the prompt: `[batch, heads, columns, head_dim]` and its constants.

    `projection` is the weight of the output projection, `[hidden, query heads · head_dim]`, where it is named `o_proj`;
    `stream` the hidden states that entered the decoder layer, before its norm, `[batch, columns, hidden]`.
    `unrotated` are queries and keys before their rotation, where the model has one function for both; `ahead` cosines
    and sines of the next positions, `[positions, head_dim]`, and `last` of the last one, where the model has one
    embedding for all layers. `output` is what the attention's output projection gave, `[batch, columns, hidden]`, and
    `norm` the module that it passes on its way to the stream, where there is one. `repeated` is what
    `repetition.py` adds.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    scaling: float
    softcap: float | None
    sinks: torch.Tensor | None
    projection: torch.Tensor | None = None
    stream: torch.Tensor | None = None
    unrotated: tuple[torch.Tensor, torch.Tensor] | None = None
    ahead: tuple[torch.Tensor, torch.Tensor] | None = None
    last: tuple[torch.Tensor, torch.Tensor] | None = None
    output: torch.Tensor | None = None
    norm: torch.nn.Module | None = None
    repeated: list[torch.Tensor] = field(default_factory=list)


@dataclass
class Prompt:
    """A dense prefill: captures of the full-attention layers by layer index, the cache, the first greedy token."""

    captures: dict[int, Capture]
    cache: DynamicCache
    next_token: torch.Tensor


@torch.no_grad()
def capture_prompt(
    model, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, num_ahead: int = 512
) -> Prompt:
    """Prefill a model as transformers does it and record what every full-attention layer saw."""
    captures: dict[int, Capture] = {}
    columns = input_ids.shape[1]
    last, ahead, unrotated = _turns(model, columns - 1, 1), _turns(model, columns, num_ahead), []

    def record(plain: Callable, module, query, key, value, mask, **settings):
        if sees_everything(module, settings):
            projection = getattr(getattr(module, "o_proj", None), "weight", None)
            constants = (scaling_of(query, settings), settings.get("softcap"), settings.get("s_aux"), projection)
            captures[module.layer_idx] = Capture(query, key, value, *constants)
            captures[module.layer_idx].unrotated = unrotated[-1] if unrotated else None
            captures[module.layer_idx].last, captures[module.layer_idx].ahead = last, ahead
        return plain(module, query, key, value, mask, **settings)

    cache = DynamicCache(config=model.config)
    arguments = {"past_key_values": cache, "logits_to_keep": 1, "output_hidden_states": True}
    outputs: dict[int, tuple[torch.nn.Module, torch.Tensor]] = {}
    with own_attention(model, record), _rotations(model, unrotated), _normed(model, outputs):
        output = model(input_ids, attention_mask=attention_mask, **arguments)
    for layer, capture in captures.items():
        capture.stream = output.hidden_states[layer]  # transformers lists them before each layer, and after the last
        capture.norm, capture.output = outputs.get(layer, (None, None))
    return Prompt(captures, cache, output.logits[:, -1].argmax(-1, keepdim=True))


def _turns(model, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    rotary = getattr(model.model, "rotary_emb", None)
    if not hasattr(rotary, "inv_freq"):
        return None
    cos, sin = rotary(torch.zeros(1), torch.arange(first, first + count)[None])
    return cos[0], sin[0]


@contextmanager
def _normed(model, outputs: dict) -> Iterator[None]:
    """Note what the norms behind the attention are given, in models with one behind the feed-forward part as well."""
    hooks = []
    for index, layer in enumerate(model.model.layers if hasattr(model.model, "layers") else ()):
        if hasattr(layer, "post_feedforward_layernorm"):

            def note(norm, args, index=index) -> None:
                outputs[index] = norm, args[0]

            hooks.append(layer.post_attention_layernorm.register_forward_pre_hook(note))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _rotations(model, unrotated: list) -> Iterator[None]:
    """Note what the model's code rotates, layer by layer."""
    code = sys.modules[type(model).__module__]
    plain = getattr(code, "apply_rotary_pos_emb", None)

    def rotate(query, key, *args, **kwargs):
        unrotated.append((query, key))
        return plain(query, key, *args, **kwargs)

    if plain is not None:
        code.apply_rotary_pos_emb = rotate
    try:
        yield
    finally:
        if plain is not None:
            code.apply_rotary_pos_emb = plain


@torch.no_grad()
def masked_greedy(
    model,
    input_ids: torch.Tensor,
    survivors: dict[int, list[list[int]]],
    num_new_tokens: int,
    prompt: Prompt | None = None,
) -> torch.Tensor:
    """Greedy ids `[1, num_new_tokens]` of one sequence whose decoding sees survivors and new tokens only.

    Args:
        model: a plain model.
        input_ids: the prompt, `[1, columns]`.
        survivors: kept prompt positions by layer index and KV head; other layers stay as they are.
        num_new_tokens: how many, whatever the end-of-text token says.
        prompt: the prompt's own capture, where it is at hand; it is not changed.
    """
    prompt = prompt or capture_prompt(model, input_ids)
    cache = copy.deepcopy(prompt.cache)
    hidden = {layer: _hidden_columns(heads, input_ids) for layer, heads in survivors.items()}

    def attend(plain: Callable, module, query, key, value, mask, **settings):
        if module.layer_idx not in hidden:
            return plain(module, query, key, value, mask, **settings)
        return _decode_row(query, key, value, hidden[module.layer_idx], settings), None

    generated = [prompt.next_token]
    with own_attention(model, attend):
        while len(generated) < num_new_tokens:
            logits = model(generated[-1], past_key_values=cache).logits
            generated.append(logits[:, -1].argmax(-1, keepdim=True))
    return torch.cat(generated, dim=1)


def _hidden_columns(heads: list[list[int]], input_ids: torch.Tensor) -> torch.Tensor:
    """Mask `[KV heads, columns]` of the evicted prompt positions."""
    hidden = torch.ones(len(heads), input_ids.shape[1], dtype=torch.bool, device=input_ids.device)
    for head, positions in enumerate(heads):
        hidden[head, positions] = False
    return hidden


def _decode_row(query, key, value, hidden: torch.Tensor, settings: dict) -> torch.Tensor:
    """Attention output `[1, 1, query heads, head_dim]` of one new token; `hidden` as `_hidden_columns` makes it."""
    groups = query.reshape(len(hidden), -1, query.shape[-1])  # [KV heads, query heads of one, head_dim]
    logits = groups @ key[0].mT * scaling_of(query, settings)
    if settings.get("softcap"):
        logits = settings["softcap"] * torch.tanh(logits / settings["softcap"])
    logits[..., : hidden.shape[1]].masked_fill_(hidden[:, None], float("-inf"))
    if settings.get("s_aux") is not None:
        sinks = settings["s_aux"].to(logits.dtype).reshape(*groups.shape[:2], 1)
        logits = torch.cat([logits, sinks], dim=-1)
    weights = logits.softmax(dim=-1)[..., : key.shape[2]]
    return (weights @ value[0]).reshape(1, 1, query.shape[1], -1)


def scaling_of(query: torch.Tensor, settings: dict) -> float:
    return settings["scaling"] if settings.get("scaling") is not None else query.shape[-1] ** -0.5


def sees_everything(module, settings: dict) -> bool:
    reach = settings.get("sliding_window")
    return reach is None or reach >= module.config.max_position_embeddings


@contextmanager
def own_attention(model, function: Callable) -> Iterator[None]:
    """Let `function(plain, module, query, key, value, mask, ...)` attend; `plain` is what the model had before."""
    before = model.config._attn_implementation

    def attend(module, query, key, value, attention_mask, **settings):
        eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
        plain = eager if before == "eager" else AttentionInterface()[before]
        return function(plain, module, query, key, value, attention_mask, **settings)

    AttentionInterface.register(_NAME, attend)
    AttentionMaskInterface.register(_NAME, AttentionMaskInterface()[before])
    model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
