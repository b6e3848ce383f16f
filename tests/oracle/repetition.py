"""A prompt that comes once more behind itself, by plain forwards of transformers. Nothing here knows lavakv."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from tests.oracle.forwards import Prompt, capture_prompt, own_attention, scaling_of, sees_everything
from tests.oracle.reference import attention_rows


@torch.no_grad()
def capture_twice(model, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Prompt:
    """`capture_prompt`, and in `repeated` of each layer what each sequence's tokens pay when they come again.

    For each sequence `[2, query heads, tokens]`: the largest attention of any repeated token to each real position, and
    the largest attention over the length of the token's stream.
    """
    prompt = capture_prompt(model, input_ids, attention_mask)
    real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    for row, seen in enumerate(real.bool()):
        rows: dict[int, torch.Tensor] = {}

        def record(plain: Callable, module, query, key, value, mask, rows=rows, seen=seen, **settings):
            if sees_everything(module, settings):
                keys, sinks = key[0, :, int((~seen).sum()) :], settings.get("s_aux")
                paid, group = [], query.shape[1] // len(keys)
                for head, queries in enumerate(query[0]):
                    sink = None if sinks is None else sinks[head]
                    constants = (scaling_of(query, settings), settings.get("softcap"), sink)
                    paid.append(attention_rows(queries, keys[head // group], *constants))
                rows[module.layer_idx] = torch.stack(paid)
            return plain(module, query, key, value, mask, **settings)

        cache, tokens = copy.deepcopy(prompt.cache), input_ids[row : row + 1, seen]
        cache.batch_select_indices(torch.tensor([row]))
        mask = torch.cat([seen.long(), torch.ones_like(tokens[0])])[None]
        with own_attention(model, record):
            streams = model(tokens, attention_mask=mask, past_key_values=cache, output_hidden_states=True).hidden_states
        for layer, capture in prompt.captures.items():
            paid, lengths = rows[layer][..., : tokens.shape[1]], streams[layer][0].square().sum(dim=1).sqrt()
            capture.repeated.append(torch.stack([paid.amax(dim=1), (paid / lengths[:, None]).amax(dim=1)]))
    return prompt
