// Where in the prompt the survivors are: a skyline over positions. Click to go there.
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

function drawStrip(panel, counts, numHeads) {
  const { strip } = panel;
  const scale = devicePixelRatio || 1;
  strip.width = strip.clientWidth * scale;
  strip.height = strip.clientHeight * scale;
  const pen = strip.getContext("2d");
  const style = getComputedStyle(strip);
  const bins = Math.min(BINS, numTokens);
  for (let bin = 0; bin < bins; bin++) {
    const start = Math.floor((bin * numTokens) / bins);
    const end = Math.max(Math.floor(((bin + 1) * numTokens) / bins), start + 1);
    let sum = 0;
    for (let token = start; token < end; token++) sum += counts[token];
    const share = sum / (end - start) / numHeads;
    pen.fillStyle = style.color;
    const tall = share * strip.height;
    pen.fillRect((bin * strip.width) / bins, strip.height - tall, Math.max(strip.width / bins - scale * 0.5, 1), tall);
  }
  if (state.token !== null) {
    pen.fillStyle = style.outlineColor;
    pen.fillRect(((state.token + 0.5) / numTokens) * strip.width - scale, 0, 2 * scale, strip.height);
  }
}
