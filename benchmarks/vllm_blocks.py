"""Draws how the blocks of a request fall when its prompt ends: docs/results/vllm-blocks.svg, from lengths alone.

python benchmarks/vllm_blocks.py
"""

from __future__ import annotations

from pathlib import Path

from lavakv.budgets.pages import block_counts, blocks_for

OUT = Path(__file__).parents[1] / "docs" / "results" / "vllm-blocks.svg"
PROMPT, NEW, PAGE, WINDOW, HEADS = 2000, 1000, 32, 32, [3] * 30
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 260, 56, 16, 44
COLOURS = {"full cache": "#888888", "keep 50%": "#4477aa", "keep 25%": "#cc6677"}


def held(keep: float, tokens: int) -> int:
    """Blocks that a request holds after so many tokens."""
    counts = block_counts(PROMPT, max(round(keep * PROMPT), WINDOW + 1), HEADS, WINDOW, PAGE)
    return blocks_for(tokens, PAGE) - (counts.freed if tokens > PROMPT else 0)


def picture() -> str:
    """The picture as SVG."""
    most, last = blocks_for(PROMPT + NEW, PAGE), PROMPT + NEW

    def at(tokens: int, blocks: int) -> str:
        x = LEFT + (WIDTH - LEFT - 110) * tokens / last
        return f"{x:.1f},{HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * blocks / most:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        ' font-size="12">',
        f"<title>Blocks of a request of {PROMPT:,} tokens while it is read and generates {NEW:,}</title>",
    ]
    for name, keep in (("full cache", 1.0), ("keep 50%", 0.5), ("keep 25%", 0.25)):
        steps = sorted({*range(0, last + 1, PAGE), PROMPT, PROMPT + 1, last})
        line = " ".join(at(tokens, held(keep, tokens)) for tokens in steps)
        parts.append(f'<polyline fill="none" stroke="{COLOURS[name]}" stroke-width="2" points="{line}"/>')
        x, y = at(last, held(keep, last)).split(",")
        told = f"{name}: {held(keep, last)}"
        parts.append(f'<text x="{float(x) + 6:.1f}" y="{float(y) + 4:.1f}" fill="{COLOURS[name]}">{told}</text>')
    for tokens in range(0, last + 1, 500):
        x = at(tokens, 0).split(",")[0]
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle" fill="#666666">{tokens:,}</text>')
    for blocks in range(0, most + 1, 20):
        y = at(0, blocks).split(",")[1]
        parts.append(f'<text x="{LEFT - 6}" y="{float(y) + 4:.1f}" text-anchor="end" fill="#666666">{blocks}</text>')
    end = at(PROMPT, 0).split(",")[0]
    parts += [
        f'<line x1="{end}" x2="{end}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="#bbbbbb" stroke-dasharray="3 3"/>',
        f'<text x="{end}" y="{TOP - 4}" text-anchor="middle" fill="#666666">end of the prompt</text>',
        f'<text x="{LEFT}" y="{TOP - 4}" fill="#666666">blocks</text>',
        f'<text x="{WIDTH - 110}" y="{HEIGHT - 10}" text-anchor="end" fill="#666666">tokens processed</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    OUT.write_text(picture(), encoding="utf-8")
