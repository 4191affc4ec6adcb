// Which pairs there are, and how the work is cut. As in native.py.

#pragma once

#include <cstdint>

struct Problem {
    int64_t n_pairs, n_chunks, n_parts, n_threads;
    const int64_t *first, *second, *pair_starts, *atom_starts;
    const int64_t *strides;  // of rows that need not lie end to end
};
