// Sums of rank-two tensors over pairs of atoms, and their derivatives, which are sums of the same few kinds; see
// tensor_pairs.py.
//
// Compiled for one number of features: REAL, N_FEATURES. Chunks share no atoms, parts no features.

#include "problem.h"

namespace {

using real = REAL;
constexpr int F = N_FEATURES, COMPONENTS = 9, BLOCKS = 3;
constexpr int BLOCK[COMPONENTS] = {0, 1, 1, 1, 2, 2, 2, 2, 2};
// The skew part of a direction changes sign with it.
constexpr real PARITY[COMPONENTS] = {1, -1, -1, -1, 1, 1, 1, 1, 1};

template <class Work>
void for_each_pair(const Problem &p, Work work) {
#pragma omp parallel for schedule(dynamic) num_threads(p.n_threads)
    for (int64_t index = 0; index < p.n_chunks * p.n_parts; ++index) {
        const int64_t chunk = index / p.n_parts, part = index % p.n_parts;
        const int begin = part * F / p.n_parts, end = (part + 1) * F / p.n_parts;
        for (int64_t at = p.pair_starts[chunk]; at < p.pair_starts[chunk + 1]; ++at)
            work(at, p.first[at], p.second[at], begin, end);
    }
}

}  // namespace

// sum_i += w_ij x_j, with w_ij = w_ji: one weight for each block of the components.
extern "C" void tensor_sum(const Problem *problem, const real *const *in, real *const *out) {
    for_each_pair(*problem, [&](int64_t at, int64_t i, int64_t j, int begin, int end) {
        for (int c = 0; c < COMPONENTS; ++c) {
            const real *w = in[0] + (at * BLOCKS + BLOCK[c]) * F;
            const real *x_i = in[1] + (i * COMPONENTS + c) * F, *x_j = in[1] + (j * COMPONENTS + c) * F;
            real *to_i = out[0] + (i * COMPONENTS + c) * F, *to_j = out[0] + (j * COMPONENTS + c) * F;
#pragma omp simd
            for (int f = begin; f < end; ++f) {
                to_i[f] += w[f] * x_j[f];
                to_j[f] += w[f] * x_i[f];
            }
        }
    });
}

// a_i b_j + a_j b_i, summed over the components of each block.
extern "C" void tensor_product(const Problem *problem, const real *const *in, real *const *out) {
    for_each_pair(*problem, [&](int64_t at, int64_t i, int64_t j, int begin, int end) {
        for (int c = 0; c < COMPONENTS; ++c) {
            const real *a_i = in[0] + (i * COMPONENTS + c) * F, *a_j = in[0] + (j * COMPONENTS + c) * F;
            const real *b_i = in[1] + (i * COMPONENTS + c) * F, *b_j = in[1] + (j * COMPONENTS + c) * F;
            real *to = out[0] + (at * BLOCKS + BLOCK[c]) * F;
            const bool is_first = c == 0 || BLOCK[c] != BLOCK[c - 1];
            if (is_first) {
#pragma omp simd
                for (int f = begin; f < end; ++f) to[f] = a_i[f] * b_j[f] + a_j[f] * b_i[f];
            } else {
#pragma omp simd
                for (int f = begin; f < end; ++f) to[f] += a_i[f] * b_j[f] + a_j[f] * b_i[f];
            }
        }
    });
}

// The four below are the form  sum_ij  g_ic w_ij(block of c) y_ij(c) (p_i + q_j)  with one factor left out: that of
// which it is the gradient. y_ji = PARITY y_ij. z holds p and q of an atom, one behind the other.

extern "C" void directed_atoms(const Problem *problem, const real *const *in, real *const *out) {  // without g
    const real *w = in[0], *y = in[1], *z = in[2];
    for_each_pair(*problem, [&](int64_t at, int64_t i, int64_t j, int begin, int end) {
        const real *p_i = z + 2 * i * F, *p_j = z + 2 * j * F, *q_i = p_i + F, *q_j = p_j + F;
        for (int c = 0; c < COMPONENTS; ++c) {
            const real *w_c = w + (at * BLOCKS + BLOCK[c]) * F;
            const real there = y[at * COMPONENTS + c], back = PARITY[c] * there;
            real *to_i = out[0] + (i * COMPONENTS + c) * F, *to_j = out[0] + (j * COMPONENTS + c) * F;
#pragma omp simd
            for (int f = begin; f < end; ++f) {
                to_i[f] += there * w_c[f] * (p_i[f] + q_j[f]);
                to_j[f] += back * w_c[f] * (p_j[f] + q_i[f]);
            }
        }
    });
}

extern "C" void directed_weights(const Problem *problem, const real *const *in, real *const *out) {  // without w
    const real *g = in[0], *y = in[1], *z = in[2];
    for_each_pair(*problem, [&](int64_t at, int64_t i, int64_t j, int begin, int end) {
        const real *p_i = z + 2 * i * F, *p_j = z + 2 * j * F, *q_i = p_i + F, *q_j = p_j + F;
        real *to = out[0] + at * BLOCKS * F;
        for (int k = 0; k < BLOCKS; ++k)
#pragma omp simd
            for (int f = begin; f < end; ++f) to[k * F + f] = 0;
        for (int c = 0; c < COMPONENTS; ++c) {
            const real *g_i = g + (i * COMPONENTS + c) * F, *g_j = g + (j * COMPONENTS + c) * F;
            const real there = y[at * COMPONENTS + c], back = PARITY[c] * there;
            real *to_c = to + BLOCK[c] * F;
#pragma omp simd
            for (int f = begin; f < end; ++f)
                to_c[f] += there * g_i[f] * (p_i[f] + q_j[f]) + back * g_j[f] * (p_j[f] + q_i[f]);
        }
    });
}

extern "C" void directed_directions(const Problem *problem, const real *const *in, real *const *out) {  // without y
    const real *g = in[0], *w = in[1], *z = in[2];
    for_each_pair(*problem, [&](int64_t at, int64_t i, int64_t j, int begin, int end) {
        const real *p_i = z + 2 * i * F, *p_j = z + 2 * j * F, *q_i = p_i + F, *q_j = p_j + F;
        for (int c = 0; c < COMPONENTS; ++c) {
            const real *g_i = g + (i * COMPONENTS + c) * F, *g_j = g + (j * COMPONENTS + c) * F;
            const real *w_c = w + (at * BLOCKS + BLOCK[c]) * F;
            real sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int f = begin; f < end; ++f)
                sum += w_c[f] * (g_i[f] * (p_i[f] + q_j[f]) + PARITY[c] * g_j[f] * (p_j[f] + q_i[f]));
            out[0][at * COMPONENTS + c] = sum;
        }
    });
}

extern "C" void directed_elements(const Problem *problem, const real *const *in, real *const *out) {  // without p, q
    const real *g = in[0], *w = in[1], *y = in[2];
    for_each_pair(*problem, [&](int64_t at, int64_t i, int64_t j, int begin, int end) {
        real *p_i = out[0] + 2 * i * F, *p_j = out[0] + 2 * j * F, *q_i = p_i + F, *q_j = p_j + F;
        for (int c = 0; c < COMPONENTS; ++c) {
            const real *g_i = g + (i * COMPONENTS + c) * F, *g_j = g + (j * COMPONENTS + c) * F;
            const real *w_c = w + (at * BLOCKS + BLOCK[c]) * F;
            const real there = y[at * COMPONENTS + c], back = PARITY[c] * there;
#pragma omp simd
            for (int f = begin; f < end; ++f) {
                const real of_i = there * w_c[f] * g_i[f], of_j = back * w_c[f] * g_j[f];
                p_i[f] += of_i;
                q_j[f] += of_i;
                p_j[f] += of_j;
                q_i[f] += of_j;
            }
        }
    });
}
