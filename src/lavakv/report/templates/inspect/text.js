// The prompt, one span per token. One tab stop; arrow keys move between tokens.

function textOf(panel) {
  const text = document.createElement("div");
  text.className = "text";
  text.tabIndex = 0;
  text.dir = "auto";
  text.setAttribute("role", "application");
  text.setAttribute("aria-roledescription", "prompt");
  text.setAttribute("aria-label", "Prompt; use the arrow keys to move between tokens");
  panel.spans = data.texts.map((piece, token) => {
    const span = document.createElement("span");
    span.textContent = piece || "·";
    span.dataset.token = token;
    return span;
  });
  text.append(...chunksOf(panel.spans));
  text.addEventListener("pointerover", (event) => {
    const token = event.target.dataset?.token;
    if (token !== undefined && event.pointerType === "mouse" && !state.pinned) change({ token: Number(token) });
  });
  text.addEventListener("pointerleave", () => { if (!state.pinned) change({ token: null }); });
  text.addEventListener("click", (event) => {
    const token = event.target.dataset?.token;
    if (token === undefined) return;
    const same = state.pinned && state.token === Number(token);
    change({ token: Number(token), pinned: !same });
  });
  text.addEventListener("keydown", (event) => walk(panel, event));
  return text;
}

// Elements that end at line ends: the browser lays out only the visible ones.
function chunksOf(spans) {
  const chunks = [document.createElement("div")];
  for (const span of spans) {
    const last = chunks.at(-1);
    last.append(span);
    if (last.childElementCount >= 200 && span.textContent.endsWith("\n")) chunks.push(document.createElement("div"));
  }
  return chunks;
}

function walk(panel, event) {
  const now = state.token ?? 0;
  const targets = {
    ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: numTokens - 1,
    ArrowUp: lineStep(panel, now, -1), ArrowDown: lineStep(panel, now, 1),
  };
  if (!(event.key in targets)) return;
  event.preventDefault();
  const token = Math.min(Math.max(state.token === null ? 0 : targets[event.key], 0), numTokens - 1);
  change({ token, pinned: true });
  panel.spans[token].scrollIntoView({ block: "nearest" });
}

// The nearest token on the line above or below.
function lineStep(panel, token, direction) {
  const from = panel.spans[token].getClientRects()[0];
  if (!from) return token + direction;
  let best = token;
  let bestGap = Infinity;
  let line = null;
  for (let other = token + direction; other >= 0 && other < numTokens; other += direction) {
    const box = panel.spans[other].getClientRects()[0];
    if (!box || Math.abs(box.top - from.top) < from.height / 2) continue;
    line ??= box.top;
    if (Math.abs(box.top - line) > from.height / 2) break;
    const gap = Math.abs(box.left - from.left);
    if (gap < bestGap) [best, bestGap] = [other, gap];
  }
  return best;
}

function drawText(panel, counts, numHeads) {
  const first = numTokens - data.window;
  const strongest = numHeads === 1 ? 0.5 : 1; // a single head is all or nothing: half the scale is enough
  panel.spans.forEach((span, token) => {
    const level = step((strongest * counts[token]) / numHeads);
    span.className = `tok ${level ? `h${level}` : "gone"}${token >= first ? " in-window" : ""}${token === state.token ? " here" : ""}`;
  });
}
