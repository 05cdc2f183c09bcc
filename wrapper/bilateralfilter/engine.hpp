// What bilateralfilter.cpp, which checks arguments and chooses, and engine.cpp, which works, share.

#pragma once

#include "bilateralfilter.hpp"

namespace bilateral {

// Filters a problem whose arguments have been checked. engine.cpp is compiled once for each of these; setup.py tells
// whether there is one beside the baseline.
namespace baseline {
PhaseSeconds filter_checked(const Problem& problem, int threads);
}
namespace avx2 {
PhaseSeconds filter_checked(const Problem& problem, int threads);
}

}  // namespace bilateral
