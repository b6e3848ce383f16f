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
  panel.text = textOf(panel);
  panel.box.append(head, panel.answer, panel.text);
  return panel;
}

function drawPanel(panel, scale) {
  const size = panel.policy.sizes[state.size];
  const chosen = chosenRows();
  const key = `${state.size} ${state.place} ${state.head}`;
  if (panel.key !== key) {
    panel.key = key;
    panel.counts = tokenCounts(size.bits, chosen);
    drawText(panel, panel.counts, chosen.length);
  }
  drawMap(panel, size, scale);
  drawToken(panel, size, chosen.length);
  const perHead = `${size.perHead.toLocaleString("en")} of ${numTokens.toLocaleString("en")} a head, at most ${percentage(Math.max(...size.headShares))}`;
  panel.numbers.textContent = `${size.kept} kept, ${perHead}; ${size.bytes} (${size.share}); loss ${size.loss}`;
  panel.answer.hidden = size.answer === null;
  if (size.answer !== null) drawAnswer(panel.answer, size.answer);
}

function drawToken(panel, size, numHeads) {
  moveMark(panel);
  drawKeepers(panel, size.bits);
  drawStrip(panel, panel.counts, numHeads);
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
  label.textContent = same ? "same answer as the full cache" : "another answer";
  const text = document.createElement("q");
  text.dir = "auto";
  text.textContent = answer || "(nothing)";
  line.append(label, text);
}
