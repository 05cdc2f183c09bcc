// What bilateralfilter.cpp, which checks arguments and chooses, and engine.cpp, which works, share.

#pragma once

#include <cstdint>

#include "bilateralfilter.hpp"

namespace bilateral {

// A call whose arguments have been checked; shapes as for bilateralfilter_batch.
struct Batch {
    const float* images;
    const float* ins;
    float* outs;
    std::int64_t N, K, H, W;
    float sigma_rgb, sigma_xy;
    bool transpose;
    // What the caller calls the arrays, for messages.
    const char* image_name;
    const char* in_name;

    [[nodiscard]] std::int64_t pixels() const { return H * W; }
};

// engine.cpp is compiled once for each of these. setup.py tells which there are beside the baseline.
namespace baseline {
PhaseSeconds filter_batch(const Batch& batch, int threads);
}
namespace avx2 {
PhaseSeconds filter_batch(const Batch& batch, int threads);
}
namespace avx512 {
PhaseSeconds filter_batch(const Batch& batch, int threads);
}

}  // namespace bilateral
