// The edge stage of the Equivariant Transformer over a list of pairs, with both derivatives.
//
// The equations and their names are those of edge_stage.py; pair_stage.py says what is passed. A filter is f = c A(z),
// with A = SiLU, of the pre-activation z and the fade c of its kind. Names that end in _t are tangents, those with a
// tilde there.
//
// A pair is read once for both of its directions, and nothing of the size of the edges is written but the gradients of
// z. Work is cut into chunks, which share no atoms, and parts, which share no heads: no two threads write to one place,
// and the result is the same every time.

#include <vector>

#include "edge.h"
#include "filters.h"
#include "problem.h"

namespace {

const real NOWHERE[3] = {0, 0, 0};

Row atoms_of(const real *const *in, const int64_t *strides) {
    return {in[0], in[1], in[2], in[3], in[4], strides[0], strides[1], strides[2], strides[3]};
}

Pairs<const real> pairs_of(const real *const *in) { return {in[5], in[6], in[7]}; }

RowSum sums_of(real *const *out) { return {out[0], out[1], out[2], out[3], out[4]}; }

// The gradients of c and r are sums over features: each part has its own.
Pairs<real> pair_sums_of(real *const *out, const Problem &p, int part) {
    return {out[5], out[6] + part * (p.n_pairs + 1) * KINDS, out[7] + part * p.n_pairs * 3};
}

Heads heads_of(const Problem &p, int part) {
    return {int(part * H / p.n_parts), int((part + 1) * H / p.n_parts)};
}

template <class Work>
void for_each_task(const Problem &p, std::vector<real> &of_self, Work work) {
    of_self.assign(p.n_chunks * 2 * KINDS * F, 0);
#pragma omp parallel for schedule(dynamic) num_threads(p.n_threads)
    for (int64_t index = 0; index < p.n_chunks * p.n_parts; ++index) {
        const int64_t chunk = index / p.n_parts;
        const int part = index % p.n_parts;
        work(Task{p.pair_starts[chunk], p.pair_starts[chunk + 1], p.atom_starts[chunk], p.atom_starts[chunk + 1],
                  heads_of(p, part), part, reinterpret_cast<Filters *>(of_self.data()) + 2 * chunk});
    }
}

inline void reversed(const real *r, real *to) {
    for (int c = 0; c < 3; ++c) to[c] = -r[c];
}

inline void clear(Filters &of, Heads heads) {
    for (int kind = 0; kind < KINDS; ++kind)
        for (int f = heads.begin(); f < heads.end(); ++f) of[kind][f] = 0;
}

// Adds what the atoms of all chunks gave to the filters that each has with itself, and pulls it back.
template <int order>
void finish_self(const Problem &p, const Pairs<const real> &pairs, const Pairs<const real> &pairs_t,
                 const std::vector<real> &of_self, real *const *out) {
    Filters sum = {}, sum_t = {};
    for (int64_t chunk = 0; chunk < p.n_chunks; ++chunk) {
        const real *from = of_self.data() + chunk * 2 * KINDS * F;
        for (int at = 0; at < KINDS * F; ++at) {
            sum[at / F][at % F] += from[at];
            sum_t[at / F][at % F] += from[KINDS * F + at];
        }
    }
    const Pairs<const real> pair = pairs.at(p.n_pairs), pair_t = order > 1 ? pairs_t.at(p.n_pairs) : pair;
    Filter filter;
    look_up<order>(pair, pair_t, {0, H}, filter);
    for (int part = 0; part < p.n_parts; ++part)
        pull_back<order>(pair, pair_t, filter, sum, sum_t, heads_of(p, part),
                         pair_sums_of(out, p, part).at(p.n_pairs));
}

}  // namespace

extern "C" void pair_stage(const Problem *problem, const real *const *in, real *const *out) {
    const Problem &p = *problem;
    const Row atoms = atoms_of(in, p.strides);
    const Pairs<const real> pairs = pairs_of(in);
    const Messages<real> messages{out[0], out[1]};
    std::vector<real> unused;
    for_each_task(p, unused, [&](const Task &task) {
        const Heads heads = task.heads;
        Filter filter;
        for (int64_t at = task.first_pair; at < task.last_pair; ++at) {
            const int64_t i = p.first[at], j = p.second[at];
            const Row of_i = atoms.at(i), of_j = atoms.at(j);
            const Pairs<const real> pair = pairs.at(at);
            real back[3];
            reversed(pair.r, back);
            look_up<0>(pair, pair, heads, filter);
            forward(heads, Given(of_i, of_j, filter.value), pair.r, messages.at(i));
            forward(heads, Given(of_j, of_i, filter.value), back, messages.at(j));
        }
        look_up<0>(pairs.at(p.n_pairs), pairs.at(p.n_pairs), heads, filter);
        for (int64_t i = task.first_atom; i < task.last_atom; ++i)
            forward(heads, Given(atoms.at(i), atoms.at(i), filter.value), NOWHERE, messages.at(i));
    });
}

extern "C" void pair_stage_backward(const Problem *problem, const real *const *in, real *const *out) {
    const Problem &p = *problem;
    const Row atoms = atoms_of(in, p.strides);
    const Pairs<const real> pairs = pairs_of(in);
    const Messages<const real> grads{in[8], in[9]};
    const RowSum sums = sums_of(out);
    std::vector<real> of_self;
    for_each_task(p, of_self, [&](const Task &task) {
        const Heads heads = task.heads;
        const Pairs<real> of_pairs = pair_sums_of(out, p, task.part);
        Filter filter;
        Filters of_value;
        const auto direction = [&](int64_t i, int64_t j, const real *r, Filters &of_e, real *of_r) {
            const Given given(atoms.at(i), atoms.at(j), filter.value);
            backward(heads, given, r, grads.at(i), Sums(sums.at(i), sums.at(j), of_e), of_r);
        };
        for (int64_t at = task.first_pair; at < task.last_pair; ++at) {
            const int64_t i = p.first[at], j = p.second[at];
            const Pairs<const real> pair = pairs.at(at);
            real back[3], of_r[3] = {}, of_back[3] = {};
            reversed(pair.r, back);
            look_up<1>(pair, pair, heads, filter);
            clear(of_value, heads);
            direction(i, j, pair.r, of_value, of_r);
            direction(j, i, back, of_value, of_back);
            const Pairs<real> to = of_pairs.at(at);
            pull_back<1>(pair, pair, filter, of_value, of_value, heads, to);
            for (int c = 0; c < 3; ++c) to.r[c] = of_r[c] - of_back[c];
        }
        look_up<1>(pairs.at(p.n_pairs), pairs.at(p.n_pairs), heads, filter);
        real unused[3] = {};
        for (int64_t i = task.first_atom; i < task.last_atom; ++i) direction(i, i, NOWHERE, task.of_self[0], unused);
    });
    finish_self<1>(p, pairs, pairs, of_self, out);
}

extern "C" void pair_stage_double_backward(const Problem *problem, const real *const *in, real *const *out) {
    const Problem &p = *problem;
    const Row atoms = atoms_of(in, p.strides), atoms_t = atoms_of(in + 10, p.strides + 4);
    const Pairs<const real> pairs = pairs_of(in), pairs_t = pairs_of(in + 10);
    const Messages<const real> grads{in[8], in[9]};
    const RowSum sums = sums_of(out);
    const Messages<real> of_grads{out[8], out[9]};
    std::vector<real> of_self;
    for_each_task(p, of_self, [&](const Task &task) {
        const Heads heads = task.heads;
        const Pairs<real> of_pairs = pair_sums_of(out, p, task.part);
        Filter filter;
        Filters of_value, of_tangent;
        const auto direction = [&](int64_t i, int64_t j, const real *r, const real *r_t, Filters &of_e,
                                   Filters &of_e_t, real *of_r) {
            const Given given(atoms.at(i), atoms.at(j), filter.value), t(atoms_t.at(i), atoms_t.at(j), filter.tangent);
            const Sums of(sums.at(i), sums.at(j), of_e);
            double_backward(heads, given, r, grads.at(i), t, r_t, of, of_e_t, of_r, of_grads.at(i));
        };
        for (int64_t at = task.first_pair; at < task.last_pair; ++at) {
            const int64_t i = p.first[at], j = p.second[at];
            const Pairs<const real> pair = pairs.at(at), pair_t = pairs_t.at(at);
            real back[3], back_t[3], of_r[3] = {}, of_back[3] = {};
            reversed(pair.r, back);
            reversed(pair_t.r, back_t);
            look_up<2>(pair, pair_t, heads, filter);
            clear(of_value, heads);
            clear(of_tangent, heads);
            direction(i, j, pair.r, pair_t.r, of_value, of_tangent, of_r);
            direction(j, i, back, back_t, of_value, of_tangent, of_back);
            const Pairs<real> to = of_pairs.at(at);
            pull_back<2>(pair, pair_t, filter, of_value, of_tangent, heads, to);
            for (int c = 0; c < 3; ++c) to.r[c] = of_r[c] - of_back[c];
        }
        look_up<2>(pairs.at(p.n_pairs), pairs_t.at(p.n_pairs), heads, filter);
        real unused[3] = {};
        for (int64_t i = task.first_atom; i < task.last_atom; ++i)
            direction(i, i, NOWHERE, NOWHERE, task.of_self[0], task.of_self[1], unused);
    });
    finish_self<2>(p, pairs, pairs_t, of_self, out);
}
