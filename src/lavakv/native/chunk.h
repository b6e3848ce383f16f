/* Attention of a chunk's queries to its entries, which are of type ENTRY and read through WIDEN. Included by decode.c, once
   for each type. */

/* Products of a query and a key, not added up yet: one sum a lane. */
static inline void NAME(multiply)(const float *restrict query, const ENTRY *restrict key, int64_t dim,
                                  float *restrict sums) {
    float lanes[LANES] = {0};
    int64_t whole = dim - dim % LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; lane++) lanes[lane] = fmaf(query[i + lane], WIDEN(key[i + lane]), lanes[lane]);
    for (int64_t i = whole; i < dim; i++) lanes[i - whole] = fmaf(query[i], WIDEN(key[i]), lanes[i - whole]);
    memcpy(sums, lanes, sizeof(lanes));
}

/* One query with `count` keys. The lanes of TOGETHER keys are added up at once, by neighbours: one by one that takes
   longer than the products. */
static void NAME(dot_products)(const float *query, const ENTRY *keys, int64_t count, int64_t dim, float *logits) {
    float sums[TOGETHER * LANES] = {0}, halves[TOGETHER * LANES / 2];
    for (int64_t first = 0; first < count; first += TOGETHER) {
        int64_t last = count - first < TOGETHER ? count : first + TOGETHER;
        for (int64_t i = first; i < last; i++) NAME(multiply)(query, keys + i * dim, dim, sums + (i - first) * LANES);
        for (int i = 0; i < TOGETHER * LANES / 2; i++) halves[i] = sums[2 * i] + sums[2 * i + 1];
        for (int i = 0; i < TOGETHER * LANES / 4; i++) sums[i] = halves[2 * i] + halves[2 * i + 1];
        for (int i = 0; i < TOGETHER * LANES / 8; i++) halves[i] = sums[2 * i] + sums[2 * i + 1];
        for (int i = 0; i < TOGETHER; i++) sums[i] = halves[2 * i] + halves[2 * i + 1];
        memcpy(logits + first, sums, (last - first) * sizeof(float));
    }
}

static void NAME(attend_chunk)(const chunk *work, const float *queries, int64_t rows, int64_t dim, int64_t value_dim,
                               float scaling, float *output, float *sums) {
    const ENTRY *keys = work->keys, *values = work->values;
    for (int64_t row = 0; row < rows; row++) {
        const float *query = queries + row * dim;
        float weights[CHUNK_ENTRIES], largest = -INFINITY;
        double sum = 0;
        float *out = output + row * value_dim;
        NAME(dot_products)(query, keys, work->count, dim, weights);
        for (int64_t i = 0; i < work->count; i++) {
            int seen = !work->visible || work->visible[i];
            weights[i] = seen ? scaling * weights[i] : -INFINITY;
            /* a NaN must not be lost here, or the answer would look valid */
            largest = weights[i] > largest || weights[i] != weights[i] ? weights[i] : largest;
        }
        memset(out, 0, value_dim * sizeof(float));
        sums[2 * row] = largest;
        if (largest == -INFINITY) continue;
        for (int64_t i = 0; i < work->count; i++) weights[i] = exp_negative(weights[i] - largest);
        for (int64_t i = 0; i < work->count; i++) sum += weights[i];
        sums[2 * row + 1] = (float)sum;
        int64_t i = 0;
        for (; !work->visible && i + 4 <= work->count; i += 4) { /* fewer roundings, fewer passes over the output */
            const ENTRY *v = values + i * value_dim;
            for (int64_t d = 0; d < value_dim; d++)
                out[d] += fmaf(weights[i], WIDEN(v[d]), weights[i + 1] * WIDEN(v[d + value_dim])) +
                          fmaf(weights[i + 2], WIDEN(v[d + 2 * value_dim]), weights[i + 3] * WIDEN(v[d + 3 * value_dim]));
        }
        for (; i < work->count; i++) {
            if (work->visible && !work->visible[i]) continue; /* hidden entries may hold any value */
            const ENTRY *value = values + i * value_dim;
            for (int64_t d = 0; d < value_dim; d++) out[d] = fmaf(weights[i], WIDEN(value[d]), out[d]);
        }
    }
}
