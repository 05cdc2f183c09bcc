// Bilateral filtering of many channels over a batch of images, on the permutohedral lattice.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bilateral {

// A contiguous float32 array that is only read.
struct Input {
    const float* data = nullptr;
    std::size_t length = 0;
};

// A contiguous float32 array that is written.
struct Output {
    float* data = nullptr;
    std::size_t length = 0;
};

// Filter K channels of each of N images with the Gaussian kernel in (x, y, R, G, B), for every image n and channel k:
//
//   outs[n,k,i] = sum_j w_ij ins[n,k,j],
//   w_ij ~ exp(-|xy_i - xy_j|^2 / (2 sigma_xy^2) - |rgb_i - rgb_j|^2 / (2 sigma_rgb^2))
//
// The sum includes j = i and is not normalised. The lattice's kernel is about the Gaussian's shape, but not its
// size: divide by the filtered constant 1 to compare with an exact one.
//
// images:    [N, 3, H, W], usually 0 ... 255
// ins:       [N, K, H, W]
// outs:      [N, K, H, W], overwritten; must not overlap images or ins
// sigma_rgb: in units of the images' values;  sigma_xy: in pixels; both are rounded to float32
// transpose: apply the transposed operator A^T (on the lattice, A is not quite symmetric)
//
// Throws std::invalid_argument, naming the argument, for a size or sigma that is not positive (or a sigma not finite),
// a length that does not match the sizes, overlapping arrays, values that are infinite or not a number, and sigmas so
// small that float32 cannot resolve the lattice; std::bad_alloc. When values are rejected, outs may be partly written.
//
// The result does not depend on the number of threads, which is OpenMP's for the calling thread (OMP_NUM_THREADS); it
// is safe to call from several threads at once.
void bilateralfilter_batch(Input images, Input ins, Output outs, std::int64_t N, std::int64_t K, std::int64_t H,
                           std::int64_t W, double sigma_rgb, double sigma_xy, bool transpose = false);

// The same for one image, [3, H, W], and one channel, [H, W].
void bilateralfilter(Input image, Input in, Output out, std::int64_t H, std::int64_t W, double sigma_rgb,
                     double sigma_xy, bool transpose = false);

// The instruction sets for which this library has been compiled and that this machine can run, the fastest first. The
// functions above use the first; the result does not depend on it.
std::vector<std::string> instruction_sets();

// Where the time goes, summed over the threads.
struct PhaseSeconds {
    double build = 0, splat = 0, blur = 0, slice = 0;

    PhaseSeconds& operator+=(const PhaseSeconds& other) {
        build += other.build;
        splat += other.splat;
        blur += other.blur;
        slice += other.slice;
        return *this;
    }
};

// bilateralfilter_batch for benchmarks and tests: with the instruction set of that name (empty: the first), and timed.
PhaseSeconds bilateralfilter_profile(Input images, Input ins, Output outs, std::int64_t N, std::int64_t K,
                                     std::int64_t H, std::int64_t W, double sigma_rgb, double sigma_xy,
                                     bool transpose = false, const std::string& instruction_set = "");

}  // namespace bilateral
