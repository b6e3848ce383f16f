// The reader's selection. `place` is the index of a layer among the compressed ones, `head` one of its heads.
const narrow = matchMedia("screen and (max-width: 48rem)");
const state = {
  size: 0,
  shown: new Set(),
  place: null,
  head: null,
  token: null,
  pinned: false,
  differences: false,
};
const listeners = [];

function change(values) {
  Object.assign(state, values);
  for (const listener of listeners) listener();
}

function differing() {
  return state.differences && state.shown.size > 1;
}

function chosenRows() {
  return rows.flatMap((row, index) => {
    const layerFits = state.place === null || row.place === state.place;
    return layerFits && (state.head === null || row.head === state.head) ? [index] : [];
  });
}

function choiceName() {
  if (state.place === null) return `all ${rows.length} heads`;
  const layer = `layer ${data.heads[state.place][0]}`;
  return state.head === null ? layer : `${layer}, head ${state.head}`;
}

function percentage(share) {
  const value = 100 * share;
  return `${value >= 9.95 || value === 0 ? value.toFixed(0) : value.toFixed(1)}\u00a0%`;
}
