// One policy: its numbers, its answer, its map, its text.

function panelOf(policy, index) {
  const panel = { policy, index, box: document.createElement("article") };
  panel.box.className = `panel p${index % 8}`;
  panel.box.setAttribute("aria-label", policy.name);
  const head = document.createElement("header");
  head.className = "panel-head";
  panel.title = document.createElement("h2");
  panel.title.innerHTML = '<i class="swatch"></i>';
  panel.title.append(policy.name);
  panel.numbers = document.createElement("p");
  panel.numbers.className = "numbers faint";
  panel.map = mapOf(panel);
  panel.strip = stripOf(panel);
  head.append(panel.title, panel.numbers, panel.map, panel.strip);
  panel.answer = document.createElement("p");
  panel.answer.className = "answer-line";
  panel.box.append(head, panel.answer);
  return panel;
}

function count(panel) {
  const key = `${state.size} ${state.place} ${state.head}`;
  if (panel.counted === key) return;
  panel.counted = key;
  panel.counts = tokenCounts(panel.policy.sizes[state.size].bits, chosenRows());
}

// For each token, how many more heads keep it than under any other shown policy.
function surplus(panel, shown) {
  const others = shown.filter((other) => other !== panel);
  return panel.counts.map((count, token) => Math.max(count - Math.max(...others.map(({ counts }) => counts[token])), 0));
}

function largestSurplus(shown) {
  return Math.max(...shown.map((panel) => surplus(panel, shown).reduce((most, count) => Math.max(most, count), 0)), 1);
}

function drawPanel(panel, shown, scale) {
  if (!panel.spans) panel.box.append(textOf(panel));
  const size = panel.policy.sizes[state.size];
  const key = `${panel.counted} ${differing()} ${[...state.shown]}`;
  if (panel.key !== key) {
    panel.key = key;
    const counts = differing() ? surplus(panel, shown) : panel.counts;
    panel.bins = binsOf(counts, scale.text);
    drawText(panel, counts, scale.text);
    drawMap(panel, size, scale);
  }
  drawToken(panel, size);
  const perHead = `${size.perHead.toLocaleString("en")} of ${numTokens.toLocaleString("en")} per head, at most ${percentage(Math.max(...size.headShares))}`;
  panel.numbers.textContent = `${size.kept} kept, ${perHead}; ${size.bytes} (${size.share}); loss ${size.loss}`;
  panel.answer.hidden = size.answer === null;
  if (size.answer !== null) drawAnswer(panel.answer, size.answer);
}

function drawToken(panel, size) {
  moveMark(panel);
  drawKeepers(panel, size.bits);
  drawStrip(panel);
}

function moveMark(panel) {
  panel.marked?.classList.remove("here");
  panel.marked = state.token === null ? null : panel.spans[state.token];
  panel.marked?.classList.add("here");
}

function drawAnswer(line, answer) {
  const same = answer === data.fullAnswer;
  line.replaceChildren();
  const label = document.createElement("span");
  label.className = `label ${same ? "same" : "other"}`;
  label.textContent = same ? "same answer as the full cache" : "different answer";
  const text = document.createElement("q");
  text.dir = "auto";
  text.textContent = answer || "(nothing)";
  line.append(label, text);
}
