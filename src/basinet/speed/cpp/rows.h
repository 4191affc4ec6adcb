// What the kernels of the edge stage read and write, and the activation.
//
// Compiled for one network: REAL, N_FEATURES, N_HEADS.

#pragma once

#include <cmath>
#include <cstdint>

using real = REAL;
constexpr int F = N_FEATURES, H = N_HEADS, W = F / H, KINDS = 4;

inline double exponential(double x) { return std::exp(x); }

// Range reduction by powers of two, then a polynomial: no branches, so that loops over it become vectors. Beyond what a
// float holds the power stays at its end.
inline float exponential(float x) {
    constexpr float magic = 12582912.0f;  // added, it rounds to an integer, which is then in the last bits
    const float shifted = x * 1.44269504f + magic;
    const float n = shifted - magic;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t power = __builtin_bit_cast(int32_t, shifted) - __builtin_bit_cast(int32_t, magic);
    power = power < -126 ? -126 : power;
    power = power > 126 ? 126 : power;
    return p * __builtin_bit_cast(float, (power + 127) << 23);
}

struct Silu {
    real value, first, second;
};

inline Silu silu(real x) {
    const real gate = 1 / (1 + exponential(-x));
    return {x * gate, gate * (1 + x * (1 - gate)), gate * (1 - gate) * (2 + x * (1 - 2 * gate))};
}

// Rows of atoms, each of F features, a vector of three times F.
template <class T>
struct Atoms {
    T *q, *k, *x, *v, *d;
    int64_t q_stride = F, k_stride = F, x_stride = F, d_stride = F;

    Atoms at(int64_t atom) const {
        return {q + atom * q_stride, k + atom * k_stride, x + atom * x_stride, v + atom * 3 * F, d + atom * d_stride};
    }
};

// Messages or gradients of them.
template <class T>
struct Messages {
    T *m, *M;

    Messages(T *m, T *M) : m(m), M(M) {}
    Messages(const Messages &of, int begin) : m(of.m + begin), M(of.M + begin) {}

    Messages at(int64_t atom) const { return {m + atom * F, M + atom * 3 * F}; }
};

// Rows of pairs, the last that of each atom with itself.
template <class T>
struct Pairs {
    T *z, *c, *r;

    Pairs at(int64_t pair) const { return {z + pair * KINDS * F, c + pair * KINDS, r + pair * 3}; }
};

// Which heads, and where their features begin and end.
struct Heads {
    int first, last;

    int begin() const { return first * W; }
    int end() const { return last * W; }
};

using Filters = real[KINDS][F];

using Row = Atoms<const real>;
using RowSum = Atoms<real>;

struct Task {
    int64_t first_pair, last_pair, first_atom, last_atom;
    Heads heads;
    int part;
    Filters *of_self;  // two sums over its atoms
};
