// What bilateralfilter.cpp, which checks arguments and chooses, and window.cpp, which works, share.

#pragma once

#include "bilateralfilter.hpp"

namespace bilateral {

// Sum where the arguments have been checked. window.cpp is compiled once for each of these, as engine.cpp is.
namespace baseline {
void window_checked(const Window& window, const WindowChannels& channels, int threads);
}  // namespace baseline
namespace avx2 {
void window_checked(const Window& window, const WindowChannels& channels, int threads);
}  // namespace avx2

}  // namespace bilateral
