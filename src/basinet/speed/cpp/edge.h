// What one direction of a pair adds, receiver i and sender j: the equations of edge_stage.py.

#pragma once

#include "rows.h"

// What a receiver i and a sender j bring to their edge, or what is added up for them.
template <class T>
struct Edge {
    T *q, *k, *x, *v, *d;
    T *K, *X, *V, *D;

    template <class Of, class FiltersOf>
    Edge(const Atoms<Of> &i, const Atoms<Of> &j, FiltersOf &e)
        : q(i.q), k(j.k), x(j.x), v(j.v), d(j.d), K(e[0]), X(e[1]), V(e[2]), D(e[3]) {}

    Edge(const Edge &of, int begin)
        : q(of.q + begin), k(of.k + begin), x(of.x + begin), v(of.v + begin), d(of.d + begin), K(of.K + begin),
          X(of.X + begin), V(of.V + begin), D(of.D + begin) {}
};

using Given = Edge<const real>;
using Sums = Edge<real>;

// Halves are added to each other: a few vector instructions, where a sum in order would be a chain of W.
template <int n = W>
inline real total(real *lanes) {
    if constexpr (n == 1) {
        return lanes[0];
    } else {
        constexpr int kept = (n + 1) / 2;
#pragma omp simd
        for (int f = 0; f < n - kept; ++f) lanes[f] += lanes[f + kept];
        return total<kept>(lanes);
    }
}

inline void forward(Heads heads, const Given &edge, const real *r, const Messages<real> &sums) {
    real A[H];
    for (int h = heads.first; h < heads.last; ++h) {
        const Given e(edge, h * W);
        real s[W];
#pragma omp simd
        for (int f = 0; f < W; ++f) s[f] = e.q[f] * e.k[f] * e.K[f];
        A[h] = total(s);
    }
    for (int h = heads.first; h < heads.last; ++h) A[h] = silu(A[h]).value;
    for (int h = heads.first; h < heads.last; ++h) {
        const Given e(edge, h * W);
        const Messages<real> to(sums, h * W);
#pragma omp simd
        for (int f = 0; f < W; ++f) {
            const real directed = e.D[f] * e.d[f];
            to.m[f] += A[h] * e.X[f] * e.x[f];
            to.M[f] += e.V[f] * e.v[f] + r[0] * directed;
            to.M[f + F] += e.V[f] * e.v[f + F] + r[1] * directed;
            to.M[f + 2 * F] += e.V[f] * e.v[f + 2 * F] + r[2] * directed;
        }
    }
}

inline void backward(Heads heads, const Given &edge, const real *r, const Messages<const real> &grads, const Sums &sums,
                     real *of_r) {
    real A[H], ds[H], r0[W] = {}, r1[W] = {}, r2[W] = {};
    for (int h = heads.first; h < heads.last; ++h) {
        const Given e(edge, h * W);
        const real *g = grads.m + h * W;
        real s[W], T[W];
#pragma omp simd
        for (int f = 0; f < W; ++f) {
            s[f] = e.q[f] * e.k[f] * e.K[f];
            T[f] = g[f] * e.X[f] * e.x[f];
        }
        A[h] = total(s);
        ds[h] = total(T);
    }
    for (int h = heads.first; h < heads.last; ++h) {
        const Silu a = silu(A[h]);
        A[h] = a.value;
        ds[h] *= a.first;
    }
    for (int h = heads.first; h < heads.last; ++h) {
        const Given e(edge, h * W);
        const Sums of(sums, h * W);
        const real *g = grads.m + h * W, *G = grads.M + h * W;
#pragma omp simd
        for (int f = 0; f < W; ++f) {
            const real G0 = G[f], G1 = G[f + F], G2 = G[f + 2 * F];
            const real along = r[0] * G0 + r[1] * G1 + r[2] * G2, directed = e.D[f] * e.d[f];
            of.q[f] += ds[h] * e.k[f] * e.K[f];
            of.k[f] += ds[h] * e.q[f] * e.K[f];
            of.x[f] += A[h] * e.X[f] * g[f];
            of.v[f] += e.V[f] * G0;
            of.v[f + F] += e.V[f] * G1;
            of.v[f + 2 * F] += e.V[f] * G2;
            of.d[f] += e.D[f] * along;
            of.K[f] += ds[h] * e.q[f] * e.k[f];
            of.X[f] += A[h] * g[f] * e.x[f];
            of.V[f] += e.v[f] * G0 + e.v[f + F] * G1 + e.v[f + 2 * F] * G2;
            of.D[f] += e.d[f] * along;
            r0[f] += directed * G0;
            r1[f] += directed * G1;
            r2[f] += directed * G2;
        }
    }
    of_r[0] += total(r0);
    of_r[1] += total(r1);
    of_r[2] += total(r2);
}

inline void double_backward(Heads heads, const Given &edge, const real *r, const Messages<const real> &grads,
                            const Given &tangent, const real *r_t, const Sums &sums, Filters &of_tangent, real *of_r,
                            const Messages<real> &sums_of_grads) {
    real A[H], A_t[H], ds[H], ds_t[H], r0[W] = {}, r1[W] = {}, r2[W] = {};
    for (int h = heads.first; h < heads.last; ++h) {
        const Given e(edge, h * W);
        const Given t(tangent, h * W);
        const real *g = grads.m + h * W;
        real s[W], s_t[W], T[W], T_t[W];
#pragma omp simd
        for (int f = 0; f < W; ++f) {
            s[f] = e.q[f] * e.k[f] * e.K[f];
            s_t[f] = t.q[f] * e.k[f] * e.K[f] + e.q[f] * (t.k[f] * e.K[f] + e.k[f] * t.K[f]);
            T[f] = g[f] * e.X[f] * e.x[f];
            T_t[f] = g[f] * (t.X[f] * e.x[f] + e.X[f] * t.x[f]);
        }
        A[h] = total(s);
        A_t[h] = total(s_t);
        ds[h] = total(T_t);
        ds_t[h] = total(T);
    }
    for (int h = heads.first; h < heads.last; ++h) {
        const Silu a = silu(A[h]);
        const real s_t = A_t[h], T = ds_t[h], T_t = ds[h];
        A[h] = a.value;
        A_t[h] = a.first * s_t;
        ds[h] = a.second * s_t * T + a.first * T_t;
        ds_t[h] = a.first * T;
    }
    for (int h = heads.first; h < heads.last; ++h) {
        const Given e(edge, h * W);
        const Given t(tangent, h * W);
        const Sums of(sums, h * W);
        const Messages<real> of_grad(sums_of_grads, h * W);
        const real *g = grads.m + h * W, *G = grads.M + h * W;
        real *of_K_t = of_tangent[0] + h * W, *of_X_t = of_tangent[1] + h * W;
        real *of_V_t = of_tangent[2] + h * W, *of_D_t = of_tangent[3] + h * W;
#pragma omp simd
        for (int f = 0; f < W; ++f) {
            of.q[f] += ds[h] * e.k[f] * e.K[f] + ds_t[h] * (t.k[f] * e.K[f] + e.k[f] * t.K[f]);
            of.k[f] += ds[h] * e.q[f] * e.K[f] + ds_t[h] * (t.q[f] * e.K[f] + e.q[f] * t.K[f]);
            of.K[f] += ds[h] * e.q[f] * e.k[f] + ds_t[h] * (t.q[f] * e.k[f] + e.q[f] * t.k[f]);
            of_K_t[f] += ds_t[h] * e.q[f] * e.k[f];
            of.x[f] += g[f] * (A_t[h] * e.X[f] + A[h] * t.X[f]);
            of.X[f] += g[f] * (A_t[h] * e.x[f] + A[h] * t.x[f]);
            of_X_t[f] += A[h] * g[f] * e.x[f];
            of_grad.m[f] += A_t[h] * e.X[f] * e.x[f] + A[h] * (t.X[f] * e.x[f] + e.X[f] * t.x[f]);
        }
#pragma omp simd
        for (int f = 0; f < W; ++f) {
            const real G0 = G[f], G1 = G[f + F], G2 = G[f + 2 * F];
            const real along = r[0] * G0 + r[1] * G1 + r[2] * G2, along_t = r_t[0] * G0 + r_t[1] * G1 + r_t[2] * G2;
            const real directed = e.D[f] * e.d[f], directed_t = t.D[f] * e.d[f] + e.D[f] * t.d[f];
            of.v[f] += t.V[f] * G0;
            of.v[f + F] += t.V[f] * G1;
            of.v[f + 2 * F] += t.V[f] * G2;
            of.d[f] += t.D[f] * along + e.D[f] * along_t;
            of.V[f] += t.v[f] * G0 + t.v[f + F] * G1 + t.v[f + 2 * F] * G2;
            of_V_t[f] += e.v[f] * G0 + e.v[f + F] * G1 + e.v[f + 2 * F] * G2;
            of.D[f] += t.d[f] * along + e.d[f] * along_t;
            of_D_t[f] += e.d[f] * along;
            of_grad.M[f] += t.V[f] * e.v[f] + e.V[f] * t.v[f] + r[0] * directed_t + r_t[0] * directed;
            of_grad.M[f + F] += t.V[f] * e.v[f + F] + e.V[f] * t.v[f + F] + r[1] * directed_t + r_t[1] * directed;
            of_grad.M[f + 2 * F] +=
                t.V[f] * e.v[f + 2 * F] + e.V[f] * t.v[f + 2 * F] + r[2] * directed_t + r_t[2] * directed;
            r0[f] += directed_t * G0;
            r1[f] += directed_t * G1;
            r2[f] += directed_t * G2;
        }
    }
    of_r[0] += total(r0);
    of_r[1] += total(r1);
    of_r[2] += total(r2);
}
