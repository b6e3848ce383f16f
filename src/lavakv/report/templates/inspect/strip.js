// The share of heads that keep tokens, over positions of the prompt. Click to scroll there.
const BINS = 160;

function stripOf(panel) {
  const strip = document.createElement("canvas");
  strip.className = "strip";
  strip.setAttribute("role", "img");
  strip.setAttribute("aria-label", "Share of heads that keep a token, from the first token to the last");
  strip.addEventListener("click", (event) => {
    const share = event.offsetX / strip.clientWidth;
    const token = Math.min(Math.floor(share * numTokens), numTokens - 1);
    change({ token });
    panel.spans[token].scrollIntoView({ block: "center" });
  });
  return strip;
}

// Mean share of the chosen heads over each bin of tokens.
function binsOf(counts, numHeads) {
  const num = Math.min(BINS, numTokens);
  return Array.from({ length: num }, (_, bin) => {
    const start = Math.floor((bin * numTokens) / num);
    const part = counts.subarray(start, Math.max(Math.floor(((bin + 1) * numTokens) / num), start + 1));
    return part.reduce((sum, count) => sum + count, 0) / part.length / numHeads;
  });
}

function drawStrip({ strip, bins }) {
  const scale = devicePixelRatio || 1;
  strip.width = strip.clientWidth * scale;
  strip.height = strip.clientHeight * scale;
  const pen = strip.getContext("2d");
  const style = getComputedStyle(strip);
  pen.fillStyle = style.color;
  const wide = strip.width / bins.length;
  bins.forEach((share, bin) => {
    const tall = share * strip.height;
    pen.fillRect(bin * wide, strip.height - tall, Math.max(wide - scale * 0.5, 1), tall);
  });
  if (state.token === null) return;
  pen.fillStyle = style.outlineColor;
  pen.fillRect(((state.token + 0.5) / numTokens) * strip.width - scale, 0, 2 * scale, strip.height);
}
