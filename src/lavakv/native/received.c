/* H2O's score: the softmax of causal attention logits, added up over the rows, without ever being written out whole.

   Called by scoring/received.py. Rows become exponentials in place, one row a thread, while they are in its nearest
   cache; then columns are added up, a piece of columns a thread, so that no two threads write the same sum. */

#include "common.h"

#define COLUMNS 256
#define ROWS_TOGETHER 16 /* sums of sums are rounded less */

static float exponentials(float *row, int64_t count) {
    float largest[LANES], sums[LANES] = {0}, most = row[0], sum = 0;
    int64_t i = 0, whole = count - count % LANES;
    for (int lane = 0; lane < LANES; lane++) largest[lane] = row[0];
    for (; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            largest[lane] = row[i + lane] > largest[lane] ? row[i + lane] : largest[lane];
    for (; i < count; i++) most = row[i] > most ? row[i] : most;
    for (int lane = 0; lane < LANES; lane++) most = largest[lane] > most ? largest[lane] : most;
    for (i = 0; i < count; i++) row[i] = exp_negative(row[i] - most); /* a NaN stays one, and so does the sum */
    for (i = 0; i < whole; i += LANES)
        for (int lane = 0; lane < LANES; lane++) sums[lane] += row[i + lane];
    for (; i < count; i++) sum += row[i];
    for (int width = LANES / 2; width; width /= 2)
        for (int lane = 0; lane < width; lane++) sums[lane] += sums[lane + width];
    return sum + sums[0];
}

static inline int64_t seen_by(const int64_t *shape, int64_t row) {
    int64_t seen = shape[2] + row % shape[1] + 1;
    return seen < shape[3] ? seen : shape[3];
}

/* shape: all rows, rows of one query head, position of its first row, columns; logits [rows, columns], overwritten;
   workspace, a number a row; received [columns], added to; share: what each row's attention sums to. */
void lavakv_add_received(const int64_t *shape, float share, float *logits, float *workspace, float *received) {
    int64_t rows = shape[0], columns = shape[3];
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < rows; row++) workspace[row] = share / exponentials(logits + row * columns, seen_by(shape, row));
#pragma omp parallel for schedule(dynamic)
    for (int64_t start = 0; start < columns; start += COLUMNS) {
        float sums[COLUMNS] = {0};
        for (int64_t first = 0; first < rows; first += ROWS_TOGETHER) {
            float some[COLUMNS] = {0};
            for (int64_t row = first; row < first + ROWS_TOGETHER && row < rows; row++) {
                const float *paid = logits + row * columns + start;
                int64_t seen = seen_by(shape, row) - start;
                for (int64_t i = 0; i < (seen < COLUMNS ? seen : COLUMNS); i++) some[i] = fmaf(paid[i], workspace[row], some[i]);
            }
            for (int i = 0; i < COLUMNS; i++) sums[i] += some[i];
        }
        int64_t last = columns - start < COLUMNS ? columns - start : COLUMNS;
        for (int64_t i = 0; i < last; i++) received[start + i] += sums[i];
    }
}
