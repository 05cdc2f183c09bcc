// A parallel loop that knows nothing about filtering.
//
// OpenMP is optional: without it the loops run in order on the calling thread. Nothing here changes the process's
// OpenMP settings.

#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "vectors.hpp"

namespace bilateral::BILATERAL_TARGET {

// Call body(i, thread) for i = 0 ... count - 1, in any order, on at most `threads` threads, numbered from 0.
//
// An exception must not leave an OpenMP region, so the first one is kept, the calls not yet begun are skipped, and it
// is thrown again from here.
template <class Body>
void parallel_for(std::int64_t count, int threads, const Body& body) {
    if (threads <= 1 || count <= 1) {
        for (std::int64_t i = 0; i < count; ++i) body(i, 0);
        return;
    }
    std::exception_ptr error;
    std::mutex error_mutex;
    std::atomic<bool> failed{false};
    [[maybe_unused]] const int team = static_cast<int>(count < threads ? count : threads);
#if defined(_OPENMP)
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
#endif
    for (std::int64_t i = 0; i < count; ++i) {
        if (failed.load(std::memory_order_relaxed)) continue;
        try {
#if defined(_OPENMP)
            body(i, omp_get_thread_num());
#else
            body(i, 0);
#endif
        } catch (...) {
            const std::lock_guard<std::mutex> lock(error_mutex);
            if (!error) error = std::current_exception();
            failed.store(true, std::memory_order_relaxed);
        }
    }
    if (error) std::rethrow_exception(error);
}

}  // namespace bilateral::BILATERAL_TARGET
