"""The README's Python blocks and what they need around them. Standard library only: `.ci` runs them from a wheel."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
KEYWORDS = ("past_key_values", "cache")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")

# Run after a block, in its names. What the block does and prints stays as it is.
_EPILOGUE = "\nimport transformers\nprint('', output.shape[1] - inputs.input_ids.shape[1], transformers.__version__)\n"


def code_blocks(markdown: str, language: str) -> list[str]:
    """The fenced code blocks of one language, in order, word for word."""
    blocks: list[str] = []
    fence, wanted, lines = "", False, list[str]()
    for line in markdown.splitlines():
        match = _FENCE.match(line)
        if not fence and match:
            fence, wanted, lines = match[1], match[2].strip() == language, []
        elif fence and match and match[1].startswith(fence) and not match[2].strip():
            blocks += ["\n".join(lines) + "\n"] if wanted else []
            fence = ""
        elif fence:
            lines.append(line)
    assert not fence, "a code block that is never closed"
    return blocks


def with_keyword(block: str, keyword: str) -> str:
    """A block that hands the cache over under one of `KEYWORDS`."""
    return re.sub(rf"\b({'|'.join(KEYWORDS)})=cache\b", f"{keyword}=cache", block)


def prepare(folder: Path, model_dir: Path) -> dict[str, str]:
    """Make a `long.txt` and a hub cache that holds the model as if it had been downloaded.

    Args:
        folder: working folder of the blocks.
        model_dir: the default model's folder.

    Returns:
        Environment variables under which the hub's client finds the model and asks nobody.
    """
    (folder / "long.txt").write_text(README.read_text(encoding="utf-8")[:5000], encoding="utf-8")
    home = folder / "hub-home"
    model, revision = home / "hub" / f"models--{MODEL.replace('/', '--')}", "0" * 40
    snapshot = model / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(revision)
    for file in model_dir.iterdir():
        (snapshot / file.name).symlink_to(file)
    return {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_OFFLINE": "1"}


class Outcome(NamedTuple):
    """What a block did: the bytes it printed, the tokens it made, its transformers, and what it wrote to stderr."""

    nbytes: int
    new_tokens: int
    transformers: str
    stderr: str


def run_block(command: list[str], block: str, folder: Path, environment: Mapping[str, str]) -> Outcome:
    """Run a block that ends by printing `cache.nbytes` in a process of its own, in a prepared folder.

    Raises:
        AssertionError: it failed.
    """
    file = folder / "block.py"
    file.write_text(block + _EPILOGUE, encoding="utf-8")
    done = subprocess.run(
        [*command, "-W", "always", str(file)],
        cwd=folder, env=dict(environment), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *_, nbytes, new_tokens, version = done.stdout.split()
    return Outcome(int(nbytes), int(new_tokens), version, done.stderr)


def exact_bytes(new_tokens: int, *, budget: int = 256, window: int = 32) -> int:
    """Bytes that the README's cache holds after `new_tokens`, by hand: float32, 30 layers of 3 KV heads of size 64.

    The window and the new tokens lie in a tail that is exact after the prompt and grows by half, by 32 at least, when a
    token does not fit. The last token is never fed back.
    """
    length = capacity = window
    for _ in range(new_tokens - 1):
        if length == capacity:
            capacity = length + max(length // 2, 32)
        length += 1
    return 30 * 3 * (budget - window + capacity) * 2 * 64 * 4
