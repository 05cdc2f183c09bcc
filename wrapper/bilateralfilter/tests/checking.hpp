// What the programs of the tests share.

#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#if defined(_OPENMP)
#include <omp.h>
#endif

[[noreturn]] inline void fail(const std::string& what) {
    std::fprintf(stderr, "failed: %s\n", what.c_str());
    std::exit(1);
}

inline void set_threads([[maybe_unused]] int threads) {
#if defined(_OPENMP)
    omp_set_num_threads(threads);
#endif
}
