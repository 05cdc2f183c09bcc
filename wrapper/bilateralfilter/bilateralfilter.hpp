// Bilateral filtering of many channels over a batch of images, on the permutohedral lattice.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
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

// What the kernel depends on: N images of H x W pixels, [N, 3, H, W], usually 0 ... 255, and the Gaussian's standard
// deviations in units of their values and in pixels. Both are rounded to float32; infinity leaves a term out.
struct Guide {
    Input images;
    std::int64_t N = 1, H = 0, W = 0;
    double sigma_rgb = 0, sigma_xy = 0;

    [[nodiscard]] std::int64_t pixels() const { return H * W; }
};

// On the lattice, A is not quite symmetric: A, A^T or (A + A^T) / 2.
enum class Operator { plain, transposed, symmetric };

// What to filter, and how:
//
//   ins:   [N, K, H, W]
//   outs:  [N, K, H, W], overwritten; may be ins, but must not overlap it otherwise, nor the images
struct Channels {
    Input ins;
    Output outs;
    std::int64_t K = 1;
    Operator applied = Operator::plain;
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
// Throws std::invalid_argument, naming the argument, for a size or sigma that is not positive, a length that does not
// match the sizes, overlapping arrays, values that are infinite or not a number, and sigmas so small that float32
// cannot resolve the lattice or 62 bits cannot number its vertices; std::bad_alloc. When values are rejected, outs may
// be partly written.
//
// The result does not depend on the number of threads, which is OpenMP's for the calling thread (OMP_NUM_THREADS). It
// is safe to call this from several threads at once.
PhaseSeconds filter_batch(const Guide& guide, const Channels& channels, const std::string& instruction_set = "");

// The same for one image, where K follows from the length of `ins`; messages then speak of arrays [3, H, W] and
// [K, H, W].
PhaseSeconds filter_image(const Guide& guide, const Channels& channels);

class BuiltLattice;

// The lattices of N images, built once to filter any number of times; the numbers are those of filter_batch.
//
// filter_batch builds one after the other in the same memory, which is faster for a single filtering of a batch.
class Lattice {
 public:
    // Throws as filter_batch does. The images are no longer needed afterwards.
    explicit Lattice(const Guide& guide, const std::string& instruction_set = "");
    ~Lattice();

    // Throws as filter_batch does. It is safe to call this from several threads at once.
    PhaseSeconds filter(const Channels& channels) const;

 private:
    Guide guide_;  // without the images
    std::unique_ptr<const BuiltLattice> built_;
};

// A fully connected CRF with Potts compatibility, beside its unary terms: the weights of two kernels, that of a Guide
// (the appearance) and a Gaussian of position with a standard deviation of smoothness_xy pixels, which ends after four
// of these.
struct MeanField {
    std::int64_t iterations = 10;
    double appearance_weight = 0, smoothness_weight = 0, smoothness_xy = 1;
};

// Mean-field inference for N images with K classes:
//
//   outs  <-  softmax over k of ins,  then `iterations` times
//   outs[n,k,i]  <-  softmax over k of  ins[n,k,i] + sum_m weight_m sum_j n_m(i) w_m(i,j) n_m(j) outs[n,k,j]
//
// with n_m = 1 / sqrt(sum_j w_m(i,j)); the sums include j = i. `ins` are log P, up to a constant for each pixel. The
// guide's kernel is the lattice's, built once. channels.applied is ignored.
//
// Throws as filter_batch does, and for a negative number of iterations and weights that are not finite. The result does
// not depend on the number of threads; on the instruction set in the last bits.
//
// Source: Krähenbühl, Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials, 2011,
// algorithm 1.
void mean_field(const Guide& guide, const Channels& channels, const MeanField& settings,
                const std::string& instruction_set = "");

// The instruction sets for which this library has been compiled and that this machine can run, the fastest first.
std::vector<std::string> instruction_sets();

}  // namespace bilateral
