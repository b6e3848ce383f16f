"""A small Llama whose attention is as uneven as a trained one's, and the engines and references that serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import lavakv

NUM_LAYERS, NUM_HEADS, VOCABULARY = 4, 2, 300
NAN_TOKEN = 1  # in no random prompt; what attends to it is NaN
_SHARPER = 3.0  # random queries and keys agree about everything
_TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def make_model(folder: Path) -> Path:
    """Save the model and a tokenizer."""
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=96, intermediate_size=128, num_hidden_layers=NUM_LAYERS,
        num_attention_heads=6, num_key_value_heads=NUM_HEADS, head_dim=32, max_position_embeddings=4096,
        pad_token_id=1, bos_token_id=None, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(50)
        model.model.embed_tokens.weight[NAN_TOKEN] = float("nan")
        for layer in model.model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                projection.weight.mul_(_SHARPER * 5)
            layer.self_attn.v_proj.weight.mul_(10)
            layer.self_attn.o_proj.weight.mul_(10)
        model.lm_head.weight.mul_(10)
        model.lm_head.weight[NAN_TOKEN] = 0.0  # never the likeliest
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """One word a token."""
    words = {"<unk>": 0, "<pad>": 1, "<eos>": 2} | {f"w{index}": index for index in range(3, VOCABULARY)}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(folder)


def prompt(num_tokens: int, seed: int) -> list[int]:
    """Random words, of which some come again."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (num_tokens,), generator=generator).tolist()


class Answer(NamedTuple):
    """What a model said after a prompt.

    Attributes:
        tokens: generated greedily.
        logprobs: of these.
        kept: int64 positions of each layer and head that the prompt kept, or None where it was not evicted.
    """

    tokens: list[int]
    logprobs: list[float]
    kept: list[list[Tensor]] | None


def answers(results: Any, evictions: dict[str, Any]) -> list[Answer]:
    """Answers of vLLM's outputs, given what was evicted by request."""
    found = []
    for result in results:
        (output,) = result.outputs
        selection = evictions.get(result.request_id)
        logprobs = [next(iter(chosen.values())).logprob for chosen in output.logprobs]
        found.append(Answer(list(output.token_ids), logprobs, None if selection is None else by_head(selection)))
    return found


def by_head(selection: Any) -> list[list[Tensor]]:
    """Kept positions of each layer and head."""
    return [
        list(torch.split(flat, counts.tolist()))
        for flat, counts in zip(selection.flat_positions, selection.counts, strict=True)
    ]


def as_lists(kept: list[list[Tensor]]) -> dict[int, list[list[int]]]:
    """Kept positions of each head by layer, as the reference of the tests gives them."""
    return {layer: [head.tolist() for head in heads] for layer, heads in enumerate(kept)}


def reference(model: Any, tokens: list[int], told: list[int], **arguments: Any) -> Answer:
    """What `LavaCache` makes of a prompt whose answer is given, so that both see the same text.

    Args:
        model: enabled.
        tokens: of the prompt.
        told: of the answer.
        arguments: of the cache; without any, the full cache.
    """
    cache = lavakv.LavaCache(model.config, **arguments) if arguments else None
    chosen, logprobs, kept = [], [], None
    with torch.no_grad():
        out = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True)
        if cache is not None:
            kept = [[cache.kept_positions(layer, 0, head) for head in range(NUM_HEADS)] for layer in range(NUM_LAYERS)]
        for token in told:
            scores = out.logits[0, -1].float().log_softmax(-1)
            chosen.append(int(scores.argmax()))
            logprobs.append(float(scores[token]))
            out = model(torch.tensor([[token]]), past_key_values=cache or out.past_key_values, use_cache=True)
    return Answer(chosen, logprobs, kept)


def differing(one: list[list[Tensor]], other: list[list[Tensor]]) -> tuple[int, int]:
    """Entries that only the first keeps, and all that it keeps."""
    wrong = total = 0
    for layer, of_other in zip(one, other, strict=True):
        for mine, theirs in zip(layer, of_other, strict=True):
            wrong += len(set(mine.tolist()) - set(theirs.tolist()))
            total += len(mine)
    return wrong, total
