/* One decode step of ragged grouped-query attention, computed in float32: every head's own survivors and the tail, in
   float32 or bfloat16, read once.

   Called by attention/native.py; attention/cpu.py does the same without it.
   Work is cut into chunks of CHUNK_ENTRIES entries of one segment, whatever the lengths, and shared out over OpenMP's
   threads (PyTorch's own ones). Each chunk leaves a weighted sum, its largest logit and the sum of its weights: a
   log-sum-exp would be rounded. The last loop merges them. */

#include "vectors.h"

#define CHUNK_ENTRIES 128 /* a multiple of WIDTH and BLOCK */
#define BLOCK 16

typedef struct {
    const void *keys, *values;
    const uint8_t *visible; /* one byte an entry, or NULL for all */
    int64_t count, segment;
} chunk;

/* Logits become weights, not divided by their sum; totals are the largest logit and that sum. */
static inline void softmax(float *weights, const uint8_t *visible, int64_t count, float scaling, float *totals) {
    vector largest = (vector){0} - INFINITY, sum = {0};
    int64_t padded = (count + WIDTH - 1) / WIDTH * WIDTH;
    for (int64_t i = 0; i < padded; i += WIDTH) {
        vector own = load_float32(weights + i) * scaling;
        if (visible || i + WIDTH > count)
            for (int lane = 0; lane < WIDTH; lane++)
                if (i + lane >= count || (visible && !visible[i + lane])) own[lane] = -INFINITY;
        store_float32(weights + i, own);
        /* a NaN must not be lost here, or the answer would look valid */
        largest = by_mask((own > largest) | (own != own), own, largest);
    }
    float top = -INFINITY;
    for (int lane = 0; lane < WIDTH; lane++)
        if (largest[lane] > top || largest[lane] != largest[lane]) top = largest[lane];
    if (top == -INFINITY) memset(weights, 0, padded * sizeof(float));
    for (int64_t i = 0; i < padded && top != -INFINITY; i += WIDTH) {
        for (int lane = 0; lane < WIDTH; lane++) weights[i + lane] = exp_negative(weights[i + lane] - top);
        sum += load_float32(weights + i);
    }
    totals[0] = top;
    totals[1] = 0;
    for (int lane = 0; lane < WIDTH; lane++) totals[1] += sum[lane];
}

#define NAME(function) function##_float32
#define ENTRY float
#define LOAD load_float32
#include "chunk.h"
#undef NAME
#undef ENTRY
#undef LOAD
#define NAME(function) function##_bfloat16
#define ENTRY uint16_t
#define LOAD load_bfloat16
#include "chunk.h"

static int64_t cut(chunk *chunks, int64_t made, const char *keys, const char *values, const uint8_t *visible,
                   int64_t count, int64_t segment, int64_t key_bytes, int64_t value_bytes) {
    for (int64_t start = 0; start < count; start += CHUNK_ENTRIES) {
        chunk next = {keys + start * key_bytes, values + start * value_bytes, visible ? visible + start : NULL,
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

/* shape: sequences, heads, rows, dim, value_dim, tail, columns between two heads' tails, bytes of a number of
   past and tails: 4 is float32, 2 bfloat16; all else is float32
   queries [segments, rows, dim]; past [entries, dim]; tails [segments, capacity, dim]; past_visible [entries] or NULL;
   visible [sequences, tail] or NULL;
   sinks [heads, rows] or NULL; workspace for the chunks, for their outputs and two numbers a row of each; answer
   [segments, rows, value_dim]. */
void lavakv_decode(const int64_t *shape, float scaling, const int64_t *offsets, const float *queries,
                   const char *past_keys, const char *past_values, const char *tail_keys, const char *tail_values,
                   const uint8_t *past_visible, const uint8_t *visible, const float *sinks, chunk *chunks,
                   int64_t *firsts, float *outputs, float *sums, float *answer) {
    int64_t heads = shape[1], rows = shape[2], dim = shape[3], value_dim = shape[4], tail = shape[5];
    int64_t capacity = shape[6], key_bytes = shape[7] * dim, value_bytes = shape[7] * value_dim;
    int64_t segments = shape[0] * heads, made = 0;
    for (int64_t s = 0; s < segments; s++) {
        firsts[s] = made;
        made = cut(chunks, made, past_keys + offsets[s] * key_bytes, past_values + offsets[s] * value_bytes,
                   past_visible ? past_visible + offsets[s] : NULL, offsets[s + 1] - offsets[s], s, key_bytes,
                   value_bytes);
        made = cut(chunks, made, tail_keys + s * capacity * key_bytes, tail_values + s * capacity * value_bytes,
                   visible ? visible + (s / heads) * tail : NULL, tail, s, key_bytes, value_bytes);
    }
    firsts[segments] = made;
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < made; p++)
        (shape[7] == 2 ? attend_chunk_bfloat16 : attend_chunk_float32)(
            &chunks[p], queries + chunks[p].segment * rows * dim, rows, dim, value_dim, scaling,
            outputs + p * rows * value_dim, sums + 2 * p * rows);
    for (int64_t s = 0; s < segments; s++)
        for (int64_t row = 0; row < rows; row++)
            merge_segment(firsts[s], firsts[s + 1], row, rows, value_dim, outputs, sums,
                          sinks ? sinks[(s % heads) * rows + row] : -INFINITY, answer + (s * rows + row) * value_dim);
}
