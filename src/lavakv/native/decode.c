/* One decode step of ragged grouped-query attention in float32: every head's own survivors and the tail, read once.

   Called by attention/native.py; attention/cpu.py does the same without it.
   Work is cut into chunks of CHUNK_ENTRIES entries of one segment, whatever the lengths, and shared out over OpenMP's
   threads (PyTorch's own ones). Each chunk leaves a weighted sum, its largest logit and the sum of its weights: a
   log-sum-exp would be rounded. The last loop merges them. */

#include <string.h>

#include "common.h"

#define CHUNK_ENTRIES 128
#define TOGETHER 16
_Static_assert(LANES == 16, "dot_products halves four times");

typedef struct {
    const float *keys, *values;
    const uint8_t *visible; /* one byte an entry, or NULL for all */
    int64_t count, segment;
} chunk;

/* Products of a query and a key, not added up yet: one sum a lane. */
static inline void multiply(const float *restrict query, const float *restrict key, int64_t dim, float *restrict sums) {
    float lanes[LANES] = {0};
    int64_t whole = dim - dim % LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; lane++) lanes[lane] = fmaf(query[i + lane], key[i + lane], lanes[lane]);
    for (int64_t i = whole; i < dim; i++) lanes[i - whole] = fmaf(query[i], key[i], lanes[i - whole]);
    memcpy(sums, lanes, sizeof(lanes));
}

/* One query with `count` keys. The lanes of TOGETHER keys are added up at once, by neighbours: one by one that takes
   longer than the products. */
static void dot_products(const float *query, const float *keys, int64_t count, int64_t dim, float *logits) {
    float sums[TOGETHER * LANES] = {0}, halves[TOGETHER * LANES / 2];
    for (int64_t first = 0; first < count; first += TOGETHER) {
        int64_t last = count - first < TOGETHER ? count : first + TOGETHER;
        for (int64_t i = first; i < last; i++) multiply(query, keys + i * dim, dim, sums + (i - first) * LANES);
        for (int i = 0; i < TOGETHER * LANES / 2; i++) halves[i] = sums[2 * i] + sums[2 * i + 1];
        for (int i = 0; i < TOGETHER * LANES / 4; i++) sums[i] = halves[2 * i] + halves[2 * i + 1];
        for (int i = 0; i < TOGETHER * LANES / 8; i++) halves[i] = sums[2 * i] + sums[2 * i + 1];
        for (int i = 0; i < TOGETHER; i++) sums[i] = halves[2 * i] + halves[2 * i + 1];
        memcpy(logits + first, sums, (last - first) * sizeof(float));
    }
}

static void attend_chunk(const chunk *work, const float *queries, int64_t rows, int64_t dim, int64_t value_dim,
                         float scaling, float *output, float *sums) {
    for (int64_t row = 0; row < rows; row++) {
        const float *query = queries + row * dim;
        float weights[CHUNK_ENTRIES], largest = -INFINITY;
        double sum = 0;
        float *out = output + row * value_dim;
        dot_products(query, work->keys, work->count, dim, weights);
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
            const float *v = work->values + i * value_dim;
            for (int64_t d = 0; d < value_dim; d++)
                out[d] += fmaf(weights[i], v[d], weights[i + 1] * v[d + value_dim]) +
                          fmaf(weights[i + 2], v[d + 2 * value_dim], weights[i + 3] * v[d + 3 * value_dim]);
        }
        for (; i < work->count; i++) {
            if (work->visible && !work->visible[i]) continue; /* hidden entries may hold any value */
            const float *value = work->values + i * value_dim;
            for (int64_t d = 0; d < value_dim; d++) out[d] = fmaf(weights[i], value[d], out[d]);
        }
    }
}

static int64_t cut(chunk *chunks, int64_t made, const float *keys, const float *values, const uint8_t *visible,
                   int64_t count, int64_t segment, int64_t dim, int64_t value_dim) {
    for (int64_t start = 0; start < count; start += CHUNK_ENTRIES) {
        chunk next = {keys + start * dim, values + start * value_dim, visible ? visible + start : NULL,
                      count - start < CHUNK_ENTRIES ? count - start : CHUNK_ENTRIES, segment};
        chunks[made++] = next;
    }
    return made;
}

static void merge_segment(int64_t first, int64_t last, int64_t row, int64_t rows, int64_t value_dim,
                          const float *outputs, const float *sums, float sink, float *answer) {
    float largest = sink;
    for (int64_t p = first; p < last; p++) {
        float own = sums[2 * (p * rows + row)];
        largest = own > largest || own != own ? own : largest;
    }
    float total = sink == -INFINITY ? 0 : expf(sink - largest);
    memset(answer, 0, value_dim * sizeof(float));
    for (int64_t p = first; p < last; p++) {
        float own = sums[2 * (p * rows + row)];
        if (own == -INFINITY) continue;
        float weight = expf(own - largest);
        const float *output = outputs + (p * rows + row) * value_dim;
        total += weight * sums[2 * (p * rows + row) + 1];
        for (int64_t d = 0; d < value_dim; d++) answer[d] = fmaf(weight, output[d], answer[d]);
    }
    for (int64_t d = 0; d < value_dim; d++) answer[d] /= total;
}

int64_t lavakv_chunk_entries(void) { return CHUNK_ENTRIES; }

int64_t lavakv_chunk_bytes(void) { return sizeof(chunk); }

/* shape: sequences, heads, rows, dim, value_dim, tail, columns between two heads' tails, whether the tail is masked
   queries [segments, rows, dim]; past [entries, dim]; tails [segments, capacity, dim]; past_visible [entries] or NULL;
   visible [sequences, tail] or NULL;
   sinks [heads, rows] or NULL; workspace for the chunks, for their outputs and two numbers a row of each; answer
   [segments, rows, value_dim]. */
void lavakv_decode(const int64_t *shape, float scaling, const int64_t *offsets, const float *queries,
                   const float *past_keys, const float *past_values, const float *tail_keys, const float *tail_values,
                   const uint8_t *past_visible, const uint8_t *visible, const float *sinks, chunk *chunks, int64_t *firsts, float *outputs,
                   float *sums, float *answer) {
    int64_t heads = shape[1], rows = shape[2], dim = shape[3], value_dim = shape[4], tail = shape[5];
    int64_t capacity = shape[6], segments = shape[0] * heads, made = 0;
    for (int64_t s = 0; s < segments; s++) {
        firsts[s] = made;
        made = cut(chunks, made, past_keys + offsets[s] * dim, past_values + offsets[s] * value_dim,
                   past_visible ? past_visible + offsets[s] : NULL, offsets[s + 1] - offsets[s], s, dim, value_dim);
        made = cut(chunks, made, tail_keys + s * capacity * dim, tail_values + s * capacity * value_dim,
                   visible ? visible + (s / heads) * tail : NULL, tail, s, dim, value_dim);
    }
    firsts[segments] = made;
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < made; p++)
        attend_chunk(&chunks[p], queries + chunks[p].segment * rows * dim, rows, dim, value_dim, scaling,
                     outputs + p * rows * value_dim, sums + 2 * p * rows);
    for (int64_t s = 0; s < segments; s++)
        for (int64_t row = 0; row < rows; row++)
            merge_segment(firsts[s], firsts[s + 1], row, rows, value_dim, outputs, sums,
                          sinks ? sinks[(s % heads) * rows + row] : -INFINITY, answer + (s * rows + row) * value_dim);
}
