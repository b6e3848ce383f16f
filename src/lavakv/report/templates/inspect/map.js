// Columns are layers, rows are heads; above them a bar for each layer. One tab stop, arrow keys inside.

function mapOf(panel) {
  const most = Math.max(...data.heads.map(([, heads]) => heads));
  const grid = document.createElement("div");
  grid.className = "map";
  grid.setAttribute("role", "grid");
  grid.setAttribute("aria-label", `${panel.policy.name}: share of the prompt kept, columns are layers, rows are heads`);
  grid.style.setProperty("--layers", data.heads.length);
  for (let line = -1; line < most; line++) grid.append(mapLine(line));
  grid.addEventListener("click", (event) => choose(event.target.closest("button")));
  grid.addEventListener("keydown", (event) => moveInMap(grid, event));
  grid.addEventListener("focusin", (event) => {
    for (const cell of grid.querySelectorAll('[tabindex="0"]')) cell.tabIndex = -1;
    event.target.tabIndex = 0;
  });
  grid.querySelector("button").tabIndex = 0;
  panel.cells = [...grid.querySelectorAll("button")].map(cellOf);
  return grid;
}

function cellOf(cell) {
  const place = Number(cell.dataset.place);
  const head = cell.dataset.head === undefined ? null : Number(cell.dataset.head);
  return { cell, place, head, row: rows.findIndex((one) => one.place === place && one.head === head) };
}

function cellName(place, head) {
  return `layer ${data.heads[place][0]}${head === null ? "" : `, head ${head}`}`;
}

function mapLine(line) {
  const row = document.createElement("div");
  row.setAttribute("role", "row");
  row.className = line < 0 ? "layers" : "heads";
  const label = document.createElement("span");
  label.textContent = line < 0 ? "" : line;
  label.setAttribute("role", "rowheader");
  row.append(label);
  data.heads.forEach(([, heads], place) => {
    const cell = document.createElement(line < heads ? "button" : "span");
    cell.setAttribute("role", "gridcell");
    if (line < heads) Object.assign(cell, { type: "button", tabIndex: -1 });
    cell.dataset.place = place;
    if (line >= 0) cell.dataset.head = line;
    row.append(cell);
  });
  return row;
}

function choose(cell) {
  if (!cell) return;
  const { place, head } = cellOf(cell);
  const again = state.place === place && state.head === head;
  change(again ? { place: null, head: null } : { place, head });
}

function moveInMap(grid, event) {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const cell = event.target.closest("button");
  if (!cell || !moves[event.key]) return;
  event.preventDefault();
  const [across, down] = moves[event.key];
  const { place, head } = cellOf(cell);
  const line = (head ?? -1) + down;
  const where = line < 0 ? ":not([data-head])" : `[data-head="${line}"]`;
  grid.querySelector(`button[data-place="${place + across}"]${where}`)?.focus();
}

// All shown policies share one colour scale, so that maps can be compared.
function drawMap(panel, size, scale) {
  for (const { cell, place, head, row } of panel.cells) {
    const share = head === null ? size.layerShares[place] : size.headShares[row];
    cell.dataset.tip = `${cellName(place, head)}: ${percentage(share)} kept`;
    cell.setAttribute("aria-label", cell.dataset.tip);
    if (head === null) cell.style.setProperty("--tall", share / scale.layer);
    else cell.className = `h${step(share / scale.head)}`;
    cell.setAttribute("aria-selected", String(state.place === place && state.head === head));
    cell.classList.toggle("chosen-layer", state.place === place && state.head === null && head !== null);
  }
}

// A dot on every head that keeps the current token.
function drawKeepers(panel, bits) {
  for (const { cell, head, row } of panel.cells) {
    if (head !== null) cell.classList.toggle("keeps", state.token !== null && Boolean(keeps(bits, row, state.token)));
  }
}
