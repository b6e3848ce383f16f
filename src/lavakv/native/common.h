/* What the kernels share. Built by build.py with the machine's own C compiler. */

#include <math.h>
#include <stdint.h>

#define LANES 16

/* exp for x <= 0: 2^n times a polynomial on [-ln2/2, ln2/2]; below -87 it is 0. */
static inline float exp_negative(float x) {
    float clipped = x < -87.0f ? -87.0f : x;
    float n = rintf(clipped * 1.44269504088896341f);
    float r = fmaf(n, -0.693359375f, clipped);
    r = fmaf(n, 2.12194440054690583e-4f, r);
    float p = 1.0f / 5040;
    p = fmaf(p, r, 1.0f / 720);
    p = fmaf(p, r, 1.0f / 120);
    p = fmaf(p, r, 1.0f / 24);
    p = fmaf(p, r, 1.0f / 6);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    union { int32_t i; float f; } scale = {((int32_t)n + 127) << 23};
    return x < -87.0f ? 0.0f : p * scale.f;
}
