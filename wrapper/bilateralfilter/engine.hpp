// What bilateralfilter.cpp, which checks arguments and chooses, and engine.cpp, which works, share.

#pragma once

#include <memory>

#include "bilateralfilter.hpp"

namespace bilateral {

// The lattices of a batch, whatever the instruction set.
class BuiltLattice {
 public:
    virtual ~BuiltLattice() = default;
    virtual PhaseSeconds filter(const Channels& channels, int threads) const = 0;
};

// Filter and build where the arguments have been checked. engine.cpp is compiled once for each of these; setup.py tells
// whether there is one beside the baseline.
namespace baseline {
PhaseSeconds filter_checked(const Guide& guide, const Channels& channels, int threads);
std::unique_ptr<const BuiltLattice> build_checked(const Guide& guide, int threads);
void mean_field_checked(const Guide& guide, const Channels& channels, const MeanField& settings, int threads);
}  // namespace baseline
namespace avx2 {
PhaseSeconds filter_checked(const Guide& guide, const Channels& channels, int threads);
std::unique_ptr<const BuiltLattice> build_checked(const Guide& guide, int threads);
void mean_field_checked(const Guide& guide, const Channels& channels, const MeanField& settings, int threads);
}  // namespace avx2

}  // namespace bilateral
