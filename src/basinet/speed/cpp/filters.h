// The filters of a pair, f = c A(z), and what their gradients give to z and c.

#pragma once

#include "rows.h"

struct Filter {
    Filters A, A1, A2, value, tangent;
};

// The filters of a pair between two features; those a derivative does not ask for are not computed.
template <int order>
inline void look_up(const Pairs<const real> &pair, const Pairs<const real> &pair_t, Heads heads, Filter &to) {
    for (int kind = 0; kind < KINDS; ++kind) {
        const real c = pair.c[kind], *z = pair.z + kind * F;
#pragma omp simd
        for (int f = heads.begin(); f < heads.end(); ++f) {
            const Silu a = silu(z[f]);
            to.value[kind][f] = c * a.value;
            if (order > 0) to.A[kind][f] = a.value;
            if (order > 0) to.A1[kind][f] = a.first;
            if (order > 1) to.A2[kind][f] = a.second;
        }
        if (order < 2) continue;
        const real c_t = pair_t.c[kind], *z_t = pair_t.z + kind * F;
#pragma omp simd
        for (int f = heads.begin(); f < heads.end(); ++f)
            to.tangent[kind][f] = c_t * to.A[kind][f] + c * to.A1[kind][f] * z_t[f];
    }
}

// From the gradients of filters to those of z and c; `of_tangent` are those of the tangents of filters.
template <int order>
inline void pull_back(const Pairs<const real> &pair, const Pairs<const real> &pair_t, const Filter &filter,
                      const Filters &of_value, const Filters &of_tangent, Heads heads, const Pairs<real> &to) {
    for (int kind = 0; kind < KINDS; ++kind) {
        const real c = pair.c[kind], c_t = order > 1 ? pair_t.c[kind] : 0;
        const real *z_t = order > 1 ? pair_t.z + kind * F : nullptr;
        const real *A = filter.A[kind], *A1 = filter.A1[kind], *A2 = filter.A2[kind];
        const real *df = of_value[kind], *df_t = of_tangent[kind];
        real *dz = to.z + kind * F, dc = 0;
#pragma omp simd reduction(+ : dc)
        for (int f = heads.begin(); f < heads.end(); ++f) {
            real of_z = df[f] * c * A1[f], of_c = df[f] * A[f];
            if (order > 1) {
                of_z += df_t[f] * (c_t * A1[f] + c * A2[f] * z_t[f]);
                of_c += df_t[f] * A1[f] * z_t[f];
            }
            dz[f] = of_z;
            dc += of_c;
        }
        to.c[kind] = dc;
    }
}
