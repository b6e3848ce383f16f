"""The family: every method as a score, a head rule and a layer rule."""

from __future__ import annotations

from dataclasses import replace

from lavakv.policy.chunked import chunked
from lavakv.policy.facts import with_facts
from lavakv.policy.rules import Need, Policy
from lavakv.scoring.cake import cake_layer_weight, cake_score
from lavakv.scoring.caote import caote_score
from lavakv.scoring.compactor import compactor_score
from lavakv.scoring.criticalkv import criticalkv_score
from lavakv.scoring.curdkv import curdkv_score
from lavakv.scoring.defensivekv import defensivekv_score
from lavakv.scoring.dropkv import dropkv_score
from lavakv.scoring.expected_attention import expected_attention_score
from lavakv.scoring.h2o import h2o_score
from lavakv.scoring.keydiff import keydiff_score
from lavakv.scoring.knorm import knorm_score
from lavakv.scoring.kvzip import kvzip_plus_score, kvzip_score
from lavakv.scoring.lagkv import lagkv_score
from lavakv.scoring.laprox import laprox_score
from lavakv.scoring.lava import lava_score
from lavakv.scoring.random import random_score
from lavakv.scoring.reach import reach_score
from lavakv.scoring.reach_question import reach_question_score
from lavakv.scoring.residual import residual_score
from lavakv.scoring.residual_far import residual_far_score
from lavakv.scoring.residual_max import residual_max_score
from lavakv.scoring.rkv import rkv_score
from lavakv.scoring.snapkv import snapkv_score
from lavakv.scoring.streaming_llm import streaming_llm_score
from lavakv.scoring.tova import tova_score
from lavakv.scoring.vatp import vatp_score

_LAVA = "arXiv 2509.09754"
_SNAPKV = Policy("snapkv", "SnapKV: window attention (arXiv 2404.14469)", snapkv_score, "equal", "equal")
_TWO_STAGES: tuple[Need, ...] = ("tokens_per_head", "output_weight")

FAMILY = with_facts(
    (
        Policy("lava", f"LAVa: dynamic head and layer budgets ({_LAVA})", lava_score),
        Policy("lava-uniform-layers", f"LAVa without layer budgets ({_LAVA})", lava_score, layer_rule="equal"),
        Policy("lava-uniform-heads", f"LAVa without head budgets ({_LAVA})", lava_score, head_rule="equal"),
        _SNAPKV,
        Policy("pyramidkv", "PyramidKV: early layers get more (arXiv 2406.02069)", snapkv_score, "equal", "pyramid"),
        Policy("ada-snapkv", "Ada-KV on SnapKV: heads compete (arXiv 2407.11550)", snapkv_score, "pooled", "equal"),
        Policy("ada-pyramidkv", "Ada-KV on PyramidKV (arXiv 2407.11550)", snapkv_score, "pooled", "pyramid"),
        replace(
            chunked(_SNAPKV),
            name="chunkkv",
            summary="ChunkKV: chunks of 20 tokens by SnapKV's score (arXiv 2502.00299)",
        ),
        Policy("cake", "CAKE: attention and its variance (arXiv 2503.12491)", cake_score, "equal", cake_layer_weight),
        Policy("vatp", "VATP: attention times value norm (arXiv 2406.12335)", vatp_score),
        Policy(
            "criticalkv",
            "CriticalKV: attention, then projected values (arXiv 2502.03805)",
            criticalkv_score,
            "pooled",
            "equal",
            needs=_TWO_STAGES,
            tiered=True,
        ),
        Policy(
            "defensivekv",
            "DefensiveKV: worst case over the window (arXiv 2510.13334)",
            defensivekv_score,
            "pooled",
            "equal",
            needs=_TWO_STAGES,
            tiered=True,
        ),
        Policy(
            "layer-defensivekv",
            "DefensiveKV with one pool for all layers (arXiv 2510.13334)",
            defensivekv_score,
            "pooled",
            "pool",
            floor_share=0.1,
            needs=_TWO_STAGES,
            tiered=True,
        ),
        Policy("caote", "CAOTE on SnapKV: change of the output (arXiv 2504.14051)", caote_score, "equal", "equal"),
        Policy(
            "dropkv",
            "DropKV: squared change of the output (OpenReview MqfNzH3TVH)",
            dropkv_score,
            "equal",
            "equal",
        ),
        Policy(
            "laprox",
            "LaProx: attention times the projected value, one pool (arXiv 2605.07234)",
            laprox_score,
            "pooled",
            "pool",
            floor_share=0.0,
            needs=("output_weight",),
            across_heads="the sum of the scores of all heads of the layer, which takes an all-reduce",
        ),
        Policy(
            "residual",
            "lavakv's own: change of the residual stream, one pool for all layers",
            residual_score,
            "pooled",
            "pool",
            floor_share=0.1,
            needs=("output_weight", "residual_norms"),
        ),
        Policy(
            "residual-far",
            "residual, plus distant queries",
            residual_far_score,
            "pooled",
            "pool",
            floor_share=0.1,
            needs=("output_weight", "residual_norms", "prompt"),
        ),
        Policy(
            "residual-max",
            "lavakv's own: worst case over the window, in units of the residual stream",
            residual_max_score,
            "pooled",
            "pool",
            floor_share=0.1,
            needs=("output_weight", "residual_norms"),
        ),
        Policy(
            "reach",
            "lavakv's own: what any query of the prompt, asked again at its end, could get from an entry",
            reach_score,
            "pooled",
            "pool",
            floor_share=0.1,
            needs=("output_weight", "residual_norms", "prompt", "rotation"),
            reads_budget=True,
            across_heads="the rows of the prompt that the keys of all heads of the layer choose",
        ),
        Policy(
            "reach-question",
            "lavakv's own: `reach`, with a share for what the prompt's last tokens look at and what follows it",
            reach_question_score,
            "pooled",
            "pool",
            floor_share=0.1,
            needs=("output_weight", "residual_norms", "prompt", "rotation"),
            reads_budget=True,
            across_heads="rows that the keys of all heads of the layer choose, and the least score that these keep",
        ),
        Policy(
            "kvzip",
            "KVzip: attention of a repetition of the prompt (arXiv 2505.23416)",
            kvzip_score,
            "pooled",
            "pool",
            floor_share=0.0,
            needs=("replay",),
            prompt_only=True,
        ),
        Policy(
            "kvzip+",
            "KVzip+: the same times the projected value, over the residual stream (arXiv 2601.07891)",
            kvzip_plus_score,
            "pooled",
            "pool",
            floor_share=0.0,
            needs=("replay", "output_weight", "residual_norms"),
            prompt_only=True,
        ),
        Policy("h2o", "H2O: attention received (arXiv 2306.14048)", h2o_score, "equal", "equal", needs=("prompt",)),
        Policy(
            "tova",
            "TOVA: the last token's attention (arXiv 2401.06104)",
            tova_score,
            "equal",
            "equal",
            across_heads="the mean attention of all query heads of the layer, which takes an all-reduce",
        ),
        Policy(
            "streaming-llm",
            "StreamingLLM: first and latest positions (arXiv 2309.17453)",
            streaming_llm_score,
            "equal",
            "equal",
        ),
        Policy("knorm", "Key norm: short keys stay (arXiv 2406.11430)", knorm_score, "equal", "equal"),
        Policy("keydiff", "KeyDiff: keys unlike the others stay (arXiv 2504.15364)", keydiff_score, "equal", "equal"),
        Policy("lagkv", "LagKV: spread relative to what follows (arXiv 2504.04704)", lagkv_score, "equal", "equal"),
        Policy("r-kv", "R-KV: attended and unlike the others (arXiv 2505.24133)", rkv_score, "equal", "equal"),
        Policy("curdkv", "CurDKV: leverage of key times value (arXiv 2509.15038)", curdkv_score, "equal", "equal"),
        Policy(
            "expected-attention",
            "Expected Attention: what later queries will pay (arXiv 2510.00636)",
            expected_attention_score,
            "pooled",
            "equal",
            needs=("prompt", "rotation"),
            tiered=True,
            prompt_only=True,
        ),
        Policy(
            "compactor",
            "Compactor: leverage of keys and non-causal attention (arXiv 2507.08143)",
            compactor_score,
            "equal",
            "equal",
            needs=("tokens_per_head", "prompt", "rotation"),
            across_heads="mean and spread of the scores of all heads of the layer, which takes an all-reduce",
            tiered=True,
            prompt_only=True,
        ),
        Policy(
            "random",
            "Noise, seed 0: what a method has to beat",
            random_score(0),
            "equal",
            "equal",
            across_heads="the number of each head in the layer",
        ),
    )
)
