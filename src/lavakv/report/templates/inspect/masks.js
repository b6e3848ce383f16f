// Which head keeps which token, as bits: one row per head, layer by layer; one bit per token, the lowest first.
const data = JSON.parse(document.getElementById("data").textContent);
const numTokens = data.texts.length;
const rows = data.heads.flatMap(([layer, heads], place) => Array.from({ length: heads }, (_, head) => ({ layer, head, place })));

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The bits and the shares that do not depend on the selection; computed once.
async function opened(size) {
  if (size.bits) return;
  const bits = await unpacked(size.mask);
  size.headShares = headCounts(bits).map((count) => count / numTokens);
  size.layerShares = data.heads.map(([, heads], place) => {
    const own = size.headShares.filter((_, row) => rows[row].place === place);
    return own.reduce((sum, share) => sum + share, 0) / heads;
  });
  size.bits = bits;
}

function keeps(bits, row, token) {
  const index = row * numTokens + token;
  return (bits[index >> 3] >> (index & 7)) & 1;
}

// Number of the given heads that keep each token.
function tokenCounts(bits, chosen) {
  const counts = new Uint16Array(numTokens);
  for (const row of chosen) {
    for (let token = 0; token < numTokens; token++) counts[token] += keeps(bits, row, token);
  }
  return counts;
}

// Number of tokens that each head keeps.
function headCounts(bits) {
  return rows.map((_, row) => {
    let count = 0;
    for (let token = 0; token < numTokens; token++) count += keeps(bits, row, token);
    return count;
  });
}

function step(share) {
  return share <= 0 ? 0 : Math.min(Math.max(Math.round(10 * share), 1), 10);
}
