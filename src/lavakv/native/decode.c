/* One decode step of ragged grouped-query attention in float32: every head's own survivors and the tail, read once.

   Called by attention/native.py; attention/blocks.py does the same without it.
   Work is cut into pieces of CHUNK entries of one segment, whatever the lengths, and shared out over OpenMP's threads
   (PyTorch's own ones). Each piece leaves a weighted sum, its largest logit and the sum of its weights: a log-sum-exp
   would be rounded. The last loop merges them. */

#include <string.h>

#include "common.h"

#define CHUNK 128

typedef struct {
    const float *keys, *values;
    const uint8_t *visible; /* one byte an entry, or NULL for all */
    int64_t count, segment;
} piece;

static inline float dot(const float *restrict a, const float *restrict b, int64_t dim) {
    float lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= dim; i += LANES)
        for (int lane = 0; lane < LANES; lane++) lanes[lane] = fmaf(a[i + lane], b[i + lane], lanes[lane]);
    float sum = 0;
    for (; i < dim; i++) sum = fmaf(a[i], b[i], sum);
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++) lanes[lane] += lanes[lane + width];
    return sum + lanes[0];
}

static void attend_piece(const piece *work, const float *queries, int64_t rows, int64_t dim, int64_t value_dim,
                         float scaling, float *output, float *sums) {
    for (int64_t row = 0; row < rows; row++) {
        const float *query = queries + row * dim;
        float weights[CHUNK], largest = -INFINITY;
        double sum = 0;
        float *out = output + row * value_dim;
        for (int64_t i = 0; i < work->count; i++) {
            int seen = !work->visible || work->visible[i];
            weights[i] = seen ? scaling * dot(query, work->keys + i * dim, dim) : -INFINITY;
            /* a NaN must not be lost here, or the answer would look sound */
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
            if (work->visible && !work->visible[i]) continue; /* what is hidden may hold anything */
            const float *value = work->values + i * value_dim;
            for (int64_t d = 0; d < value_dim; d++) out[d] = fmaf(weights[i], value[d], out[d]);
        }
    }
}

static int64_t cut(piece *pieces, int64_t made, const float *keys, const float *values, const uint8_t *visible,
                   int64_t count, int64_t segment, int64_t dim, int64_t value_dim) {
    for (int64_t start = 0; start < count; start += CHUNK) {
        piece next = {keys + start * dim, values + start * value_dim, visible ? visible + start : NULL,
                      count - start < CHUNK ? count - start : CHUNK, segment};
        pieces[made++] = next;
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

int64_t lavakv_chunk(void) { return CHUNK; }

int64_t lavakv_piece_bytes(void) { return sizeof(piece); }

/* shape: sequences, heads, rows, dim, value_dim, tail, columns between two heads' tails, is the tail masked?
   queries [segments, rows, dim]; past [entries, dim]; tails [segments, capacity, dim]; visible [sequences, tail];
   sinks [heads, rows] or NULL; room for the pieces, for their outputs and two numbers a row of each; answer
   [segments, rows, value_dim]. */
void lavakv_decode(const int64_t *shape, float scaling, const int64_t *offsets, const float *queries,
                   const float *past_keys, const float *past_values, const float *tail_keys, const float *tail_values,
                   const uint8_t *visible, const float *sinks, piece *pieces, int64_t *firsts, float *outputs,
                   float *sums, float *answer) {
    int64_t heads = shape[1], rows = shape[2], dim = shape[3], value_dim = shape[4], tail = shape[5];
    int64_t capacity = shape[6], segments = shape[0] * heads, made = 0;
    for (int64_t s = 0; s < segments; s++) {
        firsts[s] = made;
        made = cut(pieces, made, past_keys + offsets[s] * dim, past_values + offsets[s] * value_dim, NULL,
                   offsets[s + 1] - offsets[s], s, dim, value_dim);
        made = cut(pieces, made, tail_keys + s * capacity * dim, tail_values + s * capacity * value_dim,
                   visible ? visible + (s / heads) * tail : NULL, tail, s, dim, value_dim);
    }
    firsts[segments] = made;
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < made; p++)
        attend_piece(&pieces[p], queries + pieces[p].segment * rows * dim, rows, dim, value_dim, scaling,
                     outputs + p * rows * value_dim, sums + 2 * p * rows);
    for (int64_t s = 0; s < segments; s++)
        for (int64_t row = 0; row < rows; row++)
            merge_segment(firsts[s], firsts[s + 1], row, rows, value_dim, outputs, sums,
                          sinks ? sinks[(s % heads) * rows + row] : -INFINITY, answer + (s * rows + row) * value_dim);
}
