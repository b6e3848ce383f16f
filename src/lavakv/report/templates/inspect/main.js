// Connects controls, panels and keys.
const panels = data.policies.map(panelOf);
document.getElementById("panels").append(...panels.map((panel) => panel.box));
const slider = document.getElementById("budget");
const differences = document.getElementById("differences");
const chips = data.policies.map((policy, index) => {
  const chip = document.createElement("button");
  chip.type = "button";
  chip.className = `p${index % 8}`;
  chip.innerHTML = '<i class="swatch"></i>';
  chip.append(policy.name);
  chip.addEventListener("click", () => toggle(index));
  return chip;
});
document.getElementById("policies").append(...chips);

// Wide pages show policies side by side, narrow ones one at a time.
function toggle(index) {
  const shown = new Set(narrow.matches ? [] : state.shown);
  if (shown.has(index) && shown.size > 1) shown.delete(index);
  else shown.add(index);
  change({ shown });
}

function drawControls() {
  slider.value = state.size;
  slider.setAttribute("aria-valuetext", data.budgets[state.size]);
  document.getElementById("budget-name").textContent = data.budgets[state.size];
  chips.forEach((chip, index) => chip.setAttribute("aria-pressed", String(state.shown.has(index))));
  document.getElementById("chosen").textContent = `showing ${choiceName()}`;
  document.getElementById("printed").textContent = `Budget ${data.budgets[state.size]}, ${choiceName()}`;
  document.getElementById("clear").hidden = state.place === null;
  differences.hidden = state.shown.size < 2;
  differences.setAttribute("aria-pressed", String(differing()));
  for (const part of document.querySelectorAll("[data-differing]")) part.hidden = (part.dataset.differing === "yes") !== differing();
  document.getElementById("panels").style.setProperty("--columns", state.shown.size);
}

function drawNote() {
  const note = document.getElementById("token");
  note.hidden = state.token === null;
  if (note.hidden) return;
  const text = data.texts[state.token].trim() || "(blank)";
  const chosen = chosenRows();
  const kept = shownPanels().map(({ policy, counts }) => `${policy.name} ${counts[state.token]} of ${chosen.length}`);
  note.textContent = `token ${state.token.toLocaleString("en")} “${text}”, kept by heads: ${kept.join(" · ")}`;
}

function shownPanels() {
  return panels.filter((panel) => state.shown.has(panel.index));
}

async function draw() {
  drawControls();
  for (const panel of panels) panel.box.hidden = !state.shown.has(panel.index);
  const sizes = shownPanels().map((panel) => panel.policy.sizes[state.size]);
  await Promise.all(sizes.map(opened));
  const now = shownPanels();
  if (now.some((panel) => !panel.policy.sizes[state.size].bits)) return; // the selection has changed
  const highest = (name) => Math.max(...now.flatMap((panel) => panel.policy.sizes[state.size][name]));
  const scale = { head: highest("headShares"), layer: highest("layerShares"), text: 1 };
  now.forEach(count);
  scale.text = differing() ? largestSurplus(now) : chosenRows().length;
  document.getElementById("largest").textContent = scale.text;
  for (const panel of now) drawPanel(panel, now, scale);
  drawNote();
}

slider.addEventListener("input", () => change({ size: Number(slider.value) }));
differences.addEventListener("click", () => change({ differences: !state.differences }));
document.getElementById("clear").addEventListener("click", () => change({ place: null, head: null }));
addEventListener("keydown", (event) => {
  if (event.key === "Escape") change({ place: null, head: null, token: null, pinned: false });
});
new ResizeObserver(([entry]) => root.style.setProperty("--dock", `${entry.target.offsetHeight}px`)).observe(document.querySelector(".controls"));
addEventListener("resize", () => requestAnimationFrame(draw));
narrow.addEventListener("change", () => { if (narrow.matches) change({ shown: new Set([...state.shown].slice(0, 1)) }); });
document.getElementById("theme").addEventListener("click", () => requestAnimationFrame(draw));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => requestAnimationFrame(draw));

function firstShown() {
  return new Set(narrow.matches || panels.length === 1 ? [0] : [0, 1]);
}

listeners.push(draw);
change({ size: Math.floor((data.budgets.length - 1) / 2), shown: firstShown() });
