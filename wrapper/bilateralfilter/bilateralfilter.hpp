// Bilateral filtering of many channels over a batch of images, on the permutohedral lattice.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace bilateral {

// A contiguous float32 array that is only read. `name` is what messages call it; `shape` is empty where there is none.
struct Input {
    const char* name = "";
    const float* data = nullptr;
    std::size_t length = 0;
    std::vector<std::int64_t> shape = {};
};

// A contiguous float32 array that is written.
struct Output {
    const char* name = "";
    float* data = nullptr;
    std::size_t length = 0;
    std::vector<std::int64_t> shape = {};
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
// match the sizes, a shape that does not where an array has that many dimensions, overlapping arrays, values that are
// infinite or not a number, and sigmas so small that float32 cannot resolve the lattice or 62 bits cannot number its
// vertices; std::bad_alloc. When values are rejected, outs may be partly written.
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

// The grids of N images of H x W pixels, each with an edge to the pixels at its right, left, top and bottom.
//
// Values of edges are arrays [N, E], E = H (W - 1) + (H - 1) W: in row order, first those of the edges from each pixel
// to its right, then those to the pixel below.
struct Grid {
    std::int64_t N = 1, H = 0, W = 0;

    [[nodiscard]] std::int64_t pixels() const { return H * W; }
    [[nodiscard]] std::int64_t edges() const { return H * (W - 1) + (H - 1) * W; }
};

// ins: [N, K, H, W]; weights: of the edges.
struct TreeValues {
    Input ins, weights;
    std::int64_t K = 1;
};

class BuiltForest;

// The minimum spanning trees of N images, and filters along them:
//
//   outs[n,k,i] = sum_j w_ij ins[n,k,j] / masses[n,i],   masses[n,i] = sum_j w_ij,
//   w_ij = product of the weights on the tree's path from i to j,   w_ii = 1
//
// Of the edges outside the tree neither the weights nor their gradients count. It is safe to use a forest from several
// threads at once. The numbers do not depend on the number of threads.
class SpanningForest {
 public:
    // lengths: of the edges, 0 or more; of equal ones the first in the array counts as shorter.
    //
    // Throws std::invalid_argument as filter_batch does, and for images of 2^30 pixels and more.
    SpanningForest(const Grid& grid, const Input& lengths, const std::string& instruction_set = "");
    ~SpanningForest();

    // outs: [N, K, H, W], overwritten; may be ins. masses: [N, H, W], overwritten.
    void filter(const TreeValues& values, const Output& outs, const Output& masses) const;

    // The transposed operator, outs[n,k,i] = sum_j w_ij ins[n,k,j] / masses[n,j], with the masses that `filter` wrote.
    void filter_transposed(const TreeValues& values, const Input& masses, const Output& outs) const;

    // outs, of the edges, becomes the gradient with respect to the weights of
    // sum_{n,k,i,j} gradients[n,k,i] w_ij ins[n,k,j].
    void edge_gradient(const TreeValues& values, const Input& gradients, const Output& outs) const;

 private:
    Grid grid_;
    std::unique_ptr<const BuiltForest> built_;
};

// What the kernel of a window depends on, for N images of H x W pixels: their colours [N, 3, H, W], their regions of
// interest [N, H, W], which are 1 inside and 0 outside, and the widths and weight of its two terms.
struct Window {
    Input images, regions;
    std::int64_t N = 1, H = 0, W = 0, radius = 0;
    double sigma_rgb = 0, sigma_xy = 0, smoothness_weight = 0, smoothness_xy = 1;

    // How far it reaches within the image.
    [[nodiscard]] std::int64_t rows() const { return radius < H ? radius : H - 1; }
    [[nodiscard]] std::int64_t columns() const { return radius < W ? radius : W - 1; }
};

// ins, outs: [N, K, H, W]; masses: [N, H, W].
struct WindowChannels {
    Input ins;
    Output outs, masses;
    std::int64_t K = 1;
};

// Sums K channels of each of N images over the window of at most `radius` rows and columns around each pixel:
//
//   outs[n,k,i] = sum_{j != i} w_ij (R_i + R_j) ins[n,k,j],   masses[n,i] = sum_{j != i} w_ij (R_i + R_j),
//   w_ij = exp(-|rgb_i - rgb_j|^2 / (2 sigma_rgb^2) - |xy_i - xy_j|^2 / (2 sigma_xy^2))
//          + smoothness_weight exp(-|xy_i - xy_j|^2 / (2 smoothness_xy^2))
//
// with 0 for a first term below 1e-20. Throws std::invalid_argument as filter_batch does. The result does not depend on
// the number of threads. Values that are infinite or not a number spread over the window.
void filter_window(const Window& window, const WindowChannels& channels, const std::string& instruction_set = "");

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
