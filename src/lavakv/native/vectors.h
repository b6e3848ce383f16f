/* Vectors as long as the processor's own, as GCC and Clang know them on any of them. */

#include <string.h>

#include "common.h"

#define ALWAYS __attribute__((always_inline))
#if defined(__AVX512F__)
#define WIDTH 16
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif defined(__AVX__)
#define WIDTH 8
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#else
#define WIDTH 4
#define EVEN 0, 2, 4, 6
#define ODD 1, 3, 5, 7
#endif
#ifdef __AVX512F__ /* registers for so many rows and columns of vectors */
#define ROWS 4
#define COLUMNS 4
#else
#define ROWS 2
#define COLUMNS 4
#endif

typedef float vector __attribute__((vector_size(4 * WIDTH)));
typedef int32_t integers __attribute__((vector_size(4 * WIDTH)));
typedef uint16_t halves __attribute__((vector_size(2 * WIDTH)));
typedef uint32_t words __attribute__((vector_size(4 * WIDTH)));

static inline vector load_float32(const float *numbers) {
    vector loaded;
    memcpy(&loaded, numbers, sizeof(loaded));
    return loaded;
}

/* A bfloat16 is the upper half of a float32. */
static inline vector load_bfloat16(const uint16_t *numbers) {
    halves loaded;
    memcpy(&loaded, numbers, sizeof(loaded));
    return (vector)(__builtin_convertvector(loaded, words) << 16);
}

static inline vector load_some(const float *numbers, int64_t count) {
    vector loaded = {0};
    memcpy(&loaded, numbers, count * sizeof(float));
    return loaded;
}

static inline void store_float32(float *numbers, vector stored) { memcpy(numbers, &stored, sizeof(stored)); }

static inline ALWAYS void add_to(float *numbers, vector added, int64_t count) {
    if (count >= WIDTH) {
        store_float32(numbers, load_float32(numbers) + added);
    } else {
        vector sum = load_some(numbers, count) + added;
        memcpy(numbers, &sum, count * sizeof(float));
    }
}

static inline vector by_mask(integers mask, vector yes, vector no) {
    return (vector)((mask & (integers)yes) | (~mask & (integers)no));
}

/* Sums of neighbours: those of `a`, then those of `b`. */
static inline ALWAYS vector neighbours(vector a, vector b) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, EVEN) + __builtin_shufflevector(a, b, ODD);
#else
    const integers even = {EVEN}, odd = {ODD};
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
#endif
}

/* The sum of each of WIDTH vectors, in order. */
static inline ALWAYS vector added_up(const vector *parts) {
    vector sums[WIDTH / 2];
    for (int i = 0; i < WIDTH / 2; i++) sums[i] = neighbours(parts[2 * i], parts[2 * i + 1]);
    for (int left = WIDTH / 4; left; left /= 2)
        for (int i = 0; i < left; i++) sums[i] = neighbours(sums[2 * i], sums[2 * i + 1]);
    return sums[0];
}
