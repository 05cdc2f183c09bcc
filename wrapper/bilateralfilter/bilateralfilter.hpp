// Bilateral filtering of many channels over a batch of images, on the permutohedral lattice.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bilateral {

// A contiguous float32 array that is only read. `name` is what messages call it.
struct Input {
    const char* name = "";
    const float* data = nullptr;
    std::size_t length = 0;
};

// A contiguous float32 array that is written.
struct Output {
    const char* name = "";
    float* data = nullptr;
    std::size_t length = 0;
};

// N images of H x W pixels, with K channels to filter each.
struct Shape {
    std::int64_t N = 1, K = 1, H = 0, W = 0;

    [[nodiscard]] std::int64_t pixels() const { return H * W; }
};

// The Gaussian's standard deviations, in units of the images' values and in pixels (both are rounded to float32), and
// whether to apply the transposed operator A^T: on the lattice, A is not quite symmetric.
struct Kernel {
    double sigma_rgb = 0, sigma_xy = 0;
    bool transpose = false;
};

// What to filter, by what, into what:
//
//   images:  [N, 3, H, W], usually 0 ... 255
//   ins:     [N, K, H, W]
//   outs:    [N, K, H, W], overwritten; must not overlap images or ins
struct Problem {
    Input images, ins;
    Output outs;
    Shape shape;
    Kernel kernel;
};

// Where the time goes, in seconds, summed over the threads.
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

// Filters K channels of each of N images with the Gaussian kernel in (x, y, R, G, B), for every image n and channel k:
//
//   outs[n,k,i] = sum_j w_ij ins[n,k,j],
//   w_ij ~ exp(-|xy_i - xy_j|^2 / (2 sigma_xy^2) - |rgb_i - rgb_j|^2 / (2 sigma_rgb^2))
//
// The sum includes j = i and is not normalised. The lattice's kernel has about the Gaussian's shape, but not its size:
// divide by the filtered constant 1 to compare with an exact one.
//
// instruction_set: one of instruction_sets(), or empty for the first; the result does not depend on it.
//
// Throws std::invalid_argument, naming the argument, for a size or sigma that is not positive (or a sigma not finite),
// a length that does not match the sizes, overlapping arrays, values that are infinite or not a number, and sigmas so
// small that float32 cannot resolve the lattice or 62 bits cannot number its vertices; std::bad_alloc. When values are
// rejected, outs may be partly written.
//
// The result does not depend on the number of threads, which is OpenMP's for the calling thread (OMP_NUM_THREADS). It
// is safe to call this from several threads at once.
PhaseSeconds filter_batch(const Problem& problem, const std::string& instruction_set = "");

// The same for one channel of one image; messages then speak of arrays [3, H, W] and [H, W].
PhaseSeconds filter_image(const Problem& problem);

// The instruction sets for which this library has been compiled and that this machine can run, the fastest first.
std::vector<std::string> instruction_sets();

}  // namespace bilateral
