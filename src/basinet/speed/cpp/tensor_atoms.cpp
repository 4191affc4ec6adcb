// The product XY + YX of the rank-two tensors of atoms; see rank_two.py. Compiled for one REAL.

#include <cstdint>

namespace {

using real = REAL;

constexpr real THIRD = real(1) / 3, ROOT_2 = real(1.4142135623730950488), ROOT_3 = real(1.7320508075688772935),
               ROOT_6 = real(2.4494897427831780982);

struct Symmetric {
    real xx, yy, zz, xy, xz, yz;
};

inline Symmetric symmetric(real a, real b, real xy, real xz, real yz) {
    return {a / ROOT_2 - b / ROOT_6, -a / ROOT_2 - b / ROOT_6, 2 * b / ROOT_6, xy / ROOT_2, xz / ROOT_2, yz / ROOT_2};
}

}  // namespace

// out = x y + y x, for n_atoms rows of 9 F numbers; the skew part of y is taken with a sign (-1: y transposed).
extern "C" void anticommutator(
    int64_t n_atoms, int64_t n_features, const real *x, const real *y, real *out, int64_t sign, int64_t n_threads) {
    const int64_t F = n_features;
    const real skew = real(sign);
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t atom = 0; atom < n_atoms; ++atom) {
        const real *p = x + atom * 9 * F, *q = y + atom * 9 * F;
        real *to = out + atom * 9 * F;
#pragma omp simd
        for (int64_t f = 0; f < F; ++f) {
            const real pi = p[f] / ROOT_3, qi = q[f] / ROOT_3;
            const real pa[3] = {p[F + f] / ROOT_2, p[2 * F + f] / ROOT_2, p[3 * F + f] / ROOT_2};
            const real s = skew / ROOT_2;
            const real qa[3] = {s * q[F + f], s * q[2 * F + f], s * q[3 * F + f]};
            const Symmetric a = symmetric(p[4 * F + f], p[5 * F + f], p[6 * F + f], p[7 * F + f], p[8 * F + f]);
            const Symmetric b = symmetric(q[4 * F + f], q[5 * F + f], q[6 * F + f], q[7 * F + f], q[8 * F + f]);
            const real dot = pa[0] * qa[0] + pa[1] * qa[1] + pa[2] * qa[2];
            // Half of the symmetric part of {A + S, A' + S'}: A A' + S S' + transposed, over two.
            const real xx = pa[0] * qa[0] - dot + a.xx * b.xx + a.xy * b.xy + a.xz * b.xz;
            const real yy = pa[1] * qa[1] - dot + a.xy * b.xy + a.yy * b.yy + a.yz * b.yz;
            const real zz = pa[2] * qa[2] - dot + a.xz * b.xz + a.yz * b.yz + a.zz * b.zz;
            const real xy = pa[0] * qa[1] + pa[1] * qa[0] + a.xx * b.xy + a.xy * b.yy + a.xz * b.yz + b.xx * a.xy +
                            b.xy * a.yy + b.xz * a.yz;
            const real xz = pa[0] * qa[2] + pa[2] * qa[0] + a.xx * b.xz + a.xy * b.yz + a.xz * b.zz + b.xx * a.xz +
                            b.xy * a.yz + b.xz * a.zz;
            const real yz = pa[1] * qa[2] + pa[2] * qa[1] + a.xy * b.xz + a.yy * b.yz + a.yz * b.zz + b.xy * a.xz +
                            b.yy * a.yz + b.yz * a.zz;
            const real trace = xx + yy + zz;
            to[f] = ROOT_3 * 2 * (pi * qi + THIRD * trace);
            to[F + f] = ROOT_2 * (2 * (pi * qa[0] + qi * pa[0]) - a.xx * qa[0] - a.xy * qa[1] - a.xz * qa[2] -
                                  b.xx * pa[0] - b.xy * pa[1] - b.xz * pa[2]);
            to[2 * F + f] = ROOT_2 * (2 * (pi * qa[1] + qi * pa[1]) - a.xy * qa[0] - a.yy * qa[1] - a.yz * qa[2] -
                                      b.xy * pa[0] - b.yy * pa[1] - b.yz * pa[2]);
            to[3 * F + f] = ROOT_2 * (2 * (pi * qa[2] + qi * pa[2]) - a.xz * qa[0] - a.yz * qa[1] - a.zz * qa[2] -
                                      b.xz * pa[0] - b.yz * pa[1] - b.zz * pa[2]);
            to[4 * F + f] = 2 * (pi * q[4 * F + f] + qi * p[4 * F + f]) + ROOT_2 * (xx - yy);
            to[5 * F + f] = 2 * (pi * q[5 * F + f] + qi * p[5 * F + f]) + 2 / ROOT_6 * (2 * zz - xx - yy);
            to[6 * F + f] = 2 * (pi * q[6 * F + f] + qi * p[6 * F + f]) + ROOT_2 * xy;
            to[7 * F + f] = 2 * (pi * q[7 * F + f] + qi * p[7 * F + f]) + ROOT_2 * xz;
            to[8 * F + f] = 2 * (pi * q[8 * F + f] + qi * p[8 * F + f]) + ROOT_2 * yz;
        }
    }
}
