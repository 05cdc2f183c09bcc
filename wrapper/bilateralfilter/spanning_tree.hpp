// What bilateralfilter.cpp, which checks arguments and chooses, and spanning_tree.cpp, which works, share.

#pragma once

#include <memory>

#include "bilateralfilter.hpp"

namespace bilateral {

// The spanning trees of a batch, whatever the instruction set.
class BuiltForest {
 public:
    virtual ~BuiltForest() = default;
    virtual void filter(const TreeValues& values, const Output& outs, const Output& masses, int threads) const = 0;
    virtual void filter_transposed(const TreeValues& values, const Input& masses, const Output& outs,
                                   int threads) const = 0;
    virtual void edge_gradient(const TreeValues& values, const Input& gradients, const Output& outs,
                               int threads) const = 0;
};

// Build where the arguments have been checked. spanning_tree.cpp is compiled once for each of these, as engine.cpp is.
namespace baseline {
std::unique_ptr<const BuiltForest> build_forest(const Grid& grid, const Input& lengths, int threads);
}  // namespace baseline
namespace avx2 {
std::unique_ptr<const BuiltForest> build_forest(const Grid& grid, const Input& lengths, int threads);
}  // namespace avx2

}  // namespace bilateral
