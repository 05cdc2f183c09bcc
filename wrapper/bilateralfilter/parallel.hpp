// A parallel loop that knows nothing about filtering.
//
// OpenMP is optional: without it the loops run in order on the calling thread. Nothing here changes the process's
// OpenMP settings; the number of threads is what OMP_NUM_THREADS (or the caller's own omp_set_num_threads) says.

#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

#if defined(_OPENMP)
#include <omp.h>
#include <unistd.h>
#endif

namespace bilateral {

#if defined(_OPENMP)
namespace detail {
inline const pid_t loaded_in_process = getpid();
}  // namespace detail
#endif

// How many threads a loop may use.
//
// One in a child process made by fork(): the threads of the parent's OpenMP pool do not exist there, and the common
// runtimes would wait for them for ever.
[[nodiscard]] inline int available_threads() {
#if defined(_OPENMP)
    return getpid() == detail::loaded_in_process ? omp_get_max_threads() : 1;
#else
    return 1;
#endif
}

// Call body(0) ... body(count - 1) on at most `threads` threads, in any order.
//
// An exception must not leave an OpenMP region, so the first one is kept, the calls not yet begun are skipped, and it
// is thrown again from here.
template <class Body>
void parallel_for(std::int64_t count, int threads, const Body& body) {
    if (threads <= 1 || count <= 1) {
        for (std::int64_t i = 0; i < count; ++i) body(i);
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
            body(i);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(error_mutex);
            if (!error) error = std::current_exception();
            failed.store(true, std::memory_order_relaxed);
        }
    }
    if (error) std::rethrow_exception(error);
}

}  // namespace bilateral
