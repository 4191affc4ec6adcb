// A sum over the neighbours of each atom, and its derivatives, which are of the same two kinds; see pair_sum.py.
//
// Compiled for one number of features: REAL, N_FEATURES. Chunks share no atoms, parts no features.

#include "problem.h"

namespace {

using real = REAL;
constexpr int F = N_FEATURES;

template <class Work>
void for_each_pair(const Problem &p, Work work) {
#pragma omp parallel for schedule(dynamic) num_threads(p.n_threads)
    for (int64_t index = 0; index < p.n_chunks * p.n_parts; ++index) {
        const int64_t chunk = index / p.n_parts, part = index % p.n_parts;
        const int begin = part * F / p.n_parts, end = (part + 1) * F / p.n_parts;
        for (int64_t at = p.pair_starts[chunk]; at < p.pair_starts[chunk + 1]; ++at)
            work(at, p.first[at] * F, p.second[at] * F, begin, end);
    }
}

}  // namespace

extern "C" void pair_sum(const Problem *problem, const real *const *in, real *const *out) {
    const real *weights = in[0], *x = in[1];
    real *sum = out[0];
    for_each_pair(*problem, [&](int64_t at, int64_t i, int64_t j, int begin, int end) {
        const real *w = weights + at * F;
#pragma omp simd
        for (int f = begin; f < end; ++f) {
            sum[i + f] += w[f] * x[j + f];
            sum[j + f] += w[f] * x[i + f];
        }
    });
}

extern "C" void pair_product(const Problem *problem, const real *const *in, real *const *out) {
    const real *a = in[0], *b = in[1];
    real *product = out[0];
    for_each_pair(*problem, [&](int64_t at, int64_t i, int64_t j, int begin, int end) {
        real *to = product + at * F;
#pragma omp simd
        for (int f = begin; f < end; ++f) to[f] = a[i + f] * b[j + f] + a[j + f] * b[i + f];
    });
}
