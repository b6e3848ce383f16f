"""Examples at the end of each command's help; none is wider than the help."""

from __future__ import annotations

from collections.abc import Mapping

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "lavakv": (
        "lavakv demo",
        'lavakv generate "What does it say?" -f report.txt --keep 25%',
        "lavakv compare -f report.txt --policies lava,snapkv",
    ),
    "generate": (
        'lavakv generate "Tell me about KV caches" --budget 128',
        'lavakv generate "What does it say?" -f report.txt --keep 25% -n 64',
        "lavakv generate -f report.txt --max-bytes 32MiB --policy snapkv --json",
        "lavakv generate 'Who wrote it?' --context report.safetensors",
    ),
    "chat": (
        "lavakv chat --budget 512",
        "lavakv chat -f rules.txt --keep 25% --policy residual-max",
    ),
    "compress": (
        "lavakv compress report.txt -o report.safetensors --keep 25%",
        "lavakv compress report.txt -o report.safetensors --max-bytes 32MiB --json",
    ),
    "serve": (
        "lavakv serve smollm2 --keep 25%",
        "lavakv serve Qwen/Qwen2.5-0.5B-Instruct --budget 512 -- --port 8001",
    ),
    "compare": (
        "lavakv compare -f report.txt --policies lava,snapkv --keep 25%,10%",
        "lavakv compare -f report.txt -q 'Who wrote it?' -q 'When?' --budgets 128",
        "lavakv compare -f report.txt --policies all --no-text --csv kl.csv",
    ),
    "inspect": (
        "lavakv inspect -f report.txt -q 'Who wrote it?' -o report.html",
        "lavakv inspect -f report.txt --policies lava,h2o --keep 50%,25%,10%",
    ),
    "eval": (
        "lavakv eval --list-tasks",
        "lavakv eval --tasks needle,ruler_vt --limit 5 --keep 25% --out run1",
        "lavakv eval --preset ablation -m Qwen/Qwen2.5-0.5B-Instruct --out run2",
        "lavakv eval --rescore --out run1",
    ),
    "report": ("lavakv report run1", "lavakv report run1 --out pages --baseline snapkv"),
    "bench": (
        "lavakv bench --tokens 2048,max --budgets 256,512",
        "lavakv bench --shape llama-3.2-1b --tokens 8192 --no-masked --out bench1",
        "lavakv bench --shape llama-3.2-1b --tokens 32768 --compiled --seconds 300",
    ),
    "models": ("lavakv models", "lavakv models --fetch"),
    "policies": ("lavakv policies", "lavakv policies --json"),
    "demo": ("lavakv demo", "lavakv demo --seed 7 --tokens 2000"),
    "doctor": ("lavakv doctor", "lavakv doctor --json > lavakv.json"),
}


def epilog(command: str) -> str:
    """The examples of a command as an epilog; a blank line between two keeps them on lines of their own."""
    return "\n\n".join(("Examples:", *EXAMPLES[command]))
