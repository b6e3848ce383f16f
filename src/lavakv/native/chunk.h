/* Attention of a chunk's queries to its entries, which are of type ENTRY and become vectors by LOAD. Included by decode.c,
   once for each type. A few rows are worked on together, so that what is loaded and widened serves all of them. */

static inline vector NAME(first_of)(const ENTRY *entry, int64_t count) {
    ENTRY some[WIDTH] = {0};
    if (count >= WIDTH) return LOAD(entry);
    memcpy(some, entry, count * sizeof(ENTRY));
    return LOAD(some);
}

/* Products of `num` queries with the keys. The lanes of WIDTH keys are added up at once: one by one that takes longer than
   the products. */
static inline ALWAYS void NAME(dot_products)(const ENTRY *keys, int64_t count, const float *queries, const int num,
                                             int64_t dim, float logits[][CHUNK_ENTRIES]) {
    vector sums[ROWS][WIDTH] = {0};
    for (int64_t first = 0; first < count; first += WIDTH) {
        int64_t last = count - first < WIDTH ? count : first + WIDTH;
        for (int64_t i = first; i < last; i++) {
            const ENTRY *key = keys + i * dim;
            vector own[ROWS] = {0};
            int64_t d = 0;
            for (; d + WIDTH <= dim; d += WIDTH) {
                vector part = LOAD(key + d);
                for (int row = 0; row < num; row++) own[row] += load_float32(queries + row * dim + d) * part;
            }
            if (d < dim) {
                vector part = NAME(first_of)(key + d, dim - d);
                for (int row = 0; row < num; row++) own[row] += load_some(queries + row * dim + d, dim - d) * part;
            }
            for (int row = 0; row < num; row++) sums[row][i - first] = own[row];
        }
        for (int row = 0; row < num; row++) store_float32(logits[row] + first, added_up(sums[row]));
    }
}

/* Adds the entries' values, a few vectors of them, to the rows' outputs. Entries are added up by blocks first: that takes
   fewer roundings. */
static inline ALWAYS void NAME(add_values)(const ENTRY *values, const uint8_t *visible, int64_t count, int64_t value_dim,
                                           float weights[][CHUNK_ENTRIES], const int num, const int columns,
                                           int64_t left, float *output) {
    for (int64_t first = 0; first < count; first += BLOCK) {
        int64_t last = count - first < BLOCK ? count : first + BLOCK;
        vector own[ROWS][COLUMNS] = {0};
        for (int64_t i = first; i < last; i++) {
            if (visible && !visible[i]) continue; /* hidden entries may hold any value */
            for (int column = 0; column < columns; column++) {
                const ENTRY *place = values + i * value_dim + column * WIDTH;
                vector part = left < WIDTH ? NAME(first_of)(place, left) : LOAD(place);
                for (int row = 0; row < num; row++) own[row][column] += weights[row][i] * part;
            }
        }
        for (int row = 0; row < num; row++)
            for (int column = 0; column < columns; column++)
                add_to(output + row * value_dim + column * WIDTH, own[row][column], left);
    }
}

static inline ALWAYS void NAME(attend_rows)(const chunk *work, const float *queries, const int num, int64_t dim,
                                            int64_t value_dim, float scaling, float *output, float *sums) {
    float weights[ROWS][CHUNK_ENTRIES];
    const ENTRY *values = work->values;
    NAME(dot_products)(work->keys, work->count, queries, num, dim, weights);
    for (int row = 0; row < num; row++) softmax(weights[row], work->visible, work->count, scaling, sums + 2 * row);
    memset(output, 0, num * value_dim * sizeof(float));
    int64_t d = 0;
    for (; d + COLUMNS * WIDTH <= value_dim; d += COLUMNS * WIDTH)
        NAME(add_values)(values + d, work->visible, work->count, value_dim, weights, num, COLUMNS, WIDTH, output + d);
    for (; d < value_dim; d += WIDTH) {
        int64_t left = value_dim - d < WIDTH ? value_dim - d : WIDTH;
        NAME(add_values)(values + d, work->visible, work->count, value_dim, weights, num, 1, left, output + d);
    }
}

static void NAME(attend_chunk)(const chunk *work, const float *queries, int64_t rows, int64_t dim, int64_t value_dim,
                               float scaling, float *output, float *sums) {
    for (int64_t row = 0; row < rows; row += ROWS) {
        const float *own = queries + row * dim;
        float *out = output + row * value_dim, *total = sums + 2 * row;
        switch (rows - row < ROWS ? rows - row : ROWS) { /* known when compiled, so that loops over rows unroll */
        case 1: NAME(attend_rows)(work, own, 1, dim, value_dim, scaling, out, total); break;
        case 2: NAME(attend_rows)(work, own, 2, dim, value_dim, scaling, out, total); break;
#if ROWS > 2
        case 3: NAME(attend_rows)(work, own, 3, dim, value_dim, scaling, out, total); break;
        default: NAME(attend_rows)(work, own, ROWS, dim, value_dim, scaling, out, total);
#endif
        }
    }
}
