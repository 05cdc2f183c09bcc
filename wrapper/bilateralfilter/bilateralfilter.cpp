#include "bilateralfilter.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel.hpp"
#include "permutohedral.hpp"

namespace bilateral {
namespace {

constexpr int dimensions = 5;
using Lattice = PermutohedralLattice<dimensions>;

// What the caller calls the arrays, for messages.
struct Names {
    const char* image;
    const char* in;
    const char* out;
};

struct Sizes {
    std::int64_t images, channels, height, width;

    [[nodiscard]] std::int64_t pixels() const { return height * width; }
};

[[noreturn]] void fail(const std::string& argument, const std::string& expected, const std::string& found) {
    throw std::invalid_argument(argument + ": expected " + expected + ", found " + found);
}

// The range of values that come in blocks, and whether all are finite; 0 always belongs to it.
class Range {
 public:
    void take(const float* values, int count) {
        if (count == block_size) {
            for (int p = 0; p < block_size; ++p) add(p, values[p]);
        } else {
            for (int p = 0; p < count; ++p) add(p, values[p]);
        }
    }

    [[nodiscard]] float low() const { return *std::min_element(low_.begin(), low_.end()); }
    [[nodiscard]] float high() const { return *std::max_element(high_.begin(), high_.end()); }
    [[nodiscard]] bool finite() const {
        return std::all_of(zero_.begin(), zero_.end(), [](float zero) { return zero == 0.0f; });
    }

 private:
    void add(int p, float value) {
        low_[p] = value < low_[p] ? value : low_[p];
        high_[p] = value > high_[p] ? value : high_[p];
        zero_[p] += value * 0.0f;
    }

    Lanes<float> low_{}, high_{}, zero_{};
};

// Where every pixel of an image lies in feature space: (x / sigma_xy, y / sigma_xy, R / sigma_rgb, ...), in float32.
class PixelFeatures {
 public:
    // offset: where the image begins in the caller's array, for messages.
    PixelFeatures(const float* image, std::int64_t height, std::int64_t width, float sigma_rgb, float sigma_xy,
                  const char* name, std::int64_t offset)
        : image_(image), pixels_(height * width), width_(width), sigma_rgb_(sigma_rgb), sigma_xy_(sigma_xy) {
        upper_[0] = static_cast<float>(width - 1) / sigma_xy;
        upper_[1] = static_cast<float>(height - 1) / sigma_xy;
        for (int channel = 0; channel < 3; ++channel) {
            const float* values = image + channel * pixels_;
            Range range;
            for (std::int64_t first = 0; first < pixels_; first += block_size)
                range.take(values + first, static_cast<int>(std::min<std::int64_t>(block_size, pixels_ - first)));
            if (!range.finite()) {
                const float* found = std::find_if(values, values + pixels_, [](float v) { return !std::isfinite(v); });
                fail(name, "finite values",
                     std::to_string(*found) + " at index " + std::to_string(offset + (found - image)));
            }
            lower_[2 + channel] = range.low() / sigma_rgb;
            upper_[2 + channel] = range.high() / sigma_rgb;
        }
    }

    [[nodiscard]] float lower(int i) const { return lower_[i]; }
    [[nodiscard]] float upper(int i) const { return upper_[i]; }

    void load(std::int64_t first, std::array<Lanes<float>, dimensions>& position) const {
        const int points = static_cast<int>(std::clamp<std::int64_t>(pixels_ - first, 0, block_size));
        std::int64_t x = first % width_, y = first / width_;
        for (int p = 0; p < points; ++p) {
            position[0][p] = static_cast<float>(x);
            position[1][p] = static_cast<float>(y);
            if (++x == width_) {
                x = 0;
                ++y;
            }
        }
        if (points == block_size) {
            for (int channel = 0; channel < 3; ++channel)
                for (int p = 0; p < block_size; ++p)
                    position[2 + channel][p] = image_[channel * pixels_ + first + p];
        } else {
            for (int channel = 0; channel < 3; ++channel)
                for (int p = 0; p < points; ++p) position[2 + channel][p] = image_[channel * pixels_ + first + p];
            for (auto& coordinate : position) std::fill(coordinate.begin() + points, coordinate.end(), 0.0f);
        }
        for (int i = 0; i < dimensions; ++i) {
            const float sigma = i < 2 ? sigma_xy_ : sigma_rgb_;
            for (int p = 0; p < block_size; ++p) position[i][p] /= sigma;
        }
    }

 private:
    const float* image_;
    std::int64_t pixels_, width_;
    float sigma_rgb_, sigma_xy_;
    std::array<float, dimensions> lower_{}, upper_{};
};

float checked_sigma(const char* name, double sigma) {
    const float rounded = static_cast<float>(sigma);
    if (!(rounded > 0) || !std::isfinite(rounded)) fail(name, "a positive finite number", std::to_string(sigma));
    return rounded;
}

void check_size(const char* name, std::int64_t size) {
    if (size <= 0) fail(name, "a positive number", std::to_string(size));
}

void check_length(const char* name, const std::string& meaning, std::size_t length,
                  std::initializer_list<std::int64_t> factors) {
    constexpr std::int64_t limit = std::int64_t(1) << 48;
    std::int64_t expected = 1;
    for (const std::int64_t factor : factors) {
        if (factor > limit / expected) fail(name, meaning + " at most 2^48 values", "more");
        expected *= factor;
    }
    if (length != static_cast<std::size_t>(expected))
        fail(name, std::to_string(expected) + " values (" + meaning + ")", std::to_string(length));
}

void check_overlap(const char* in_name, const Input& in, const char* out_name, const Output& out) {
    const std::less<const float*> before;
    if (before(in.data, out.data + out.length) && before(out.data, in.data + in.length))
        throw std::invalid_argument(std::string(out_name) + ": expected memory of its own, found that it overlaps " +
                                    in_name);
}

// Build the lattice of image n.
Lattice build_lattice(const Input& images, const Sizes& sizes, std::int64_t n, float sigma_rgb, float sigma_xy,
                      const Names& names, int threads) {
    const std::int64_t offset = n * 3 * sizes.pixels();
    const PixelFeatures features(images.data + offset, sizes.height, sizes.width, sigma_rgb, sigma_xy, names.image,
                                 offset);
    // The published filter takes four pixels at a time, filling up the last group with pixels at the origin.
    return Lattice(features, sizes.pixels(), (sizes.pixels() + 3) / 4 * 4, threads);
}

// Filter channels first ... last - 1 of image n.
void filter_channels(const Lattice& lattice, const Input& ins, const Output& outs, const Sizes& sizes, std::int64_t n,
                     std::int64_t first, std::int64_t last, bool transpose, const Names& names) {
    const std::int64_t offset = (n * sizes.channels + first) * sizes.pixels();
    try {
        lattice.filter(ins.data + offset, outs.data + offset, last - first, transpose);
    } catch (const NonFiniteValue& found) {
        const std::int64_t index = offset + found.index;
        fail(names.in, "finite values", std::to_string(ins.data[index]) + " at index " + std::to_string(index));
    }
}

void filter_batch(const Input& images, const Input& ins, const Output& outs, const Sizes& sizes, double rgb, double xy,
                  bool transpose, const Names& names) {
    const float sigma_rgb = checked_sigma("sigma_rgb", rgb), sigma_xy = checked_sigma("sigma_xy", xy);
    check_overlap(names.image, images, names.out, outs);
    check_overlap(names.in, ins, names.out, outs);

    // Whole images, one a thread, as long as there is one for each.
    const int threads = available_threads();
    const std::int64_t whole = sizes.images / threads * threads;
    parallel_for(whole, threads, [&](std::int64_t n) {
        const Lattice lattice = build_lattice(images, sizes, n, sigma_rgb, sigma_xy, names, 1);
        filter_channels(lattice, ins, outs, sizes, n, 0, sizes.channels, transpose, names);
    });

    // Fewer images than threads are left: several threads share an image.
    const std::int64_t left = sizes.images - whole;
    if (left == 0) return;
    std::vector<std::unique_ptr<const Lattice>> lattices(static_cast<std::size_t>(left));
    const auto build = [&](std::int64_t i, int team) {
        lattices[static_cast<std::size_t>(i)] = std::make_unique<const Lattice>(
            build_lattice(images, sizes, whole + i, sigma_rgb, sigma_xy, names, team));
    };
    if (2 * left <= threads) {
        for (std::int64_t i = 0; i < left; ++i) build(i, threads);
    } else {
        parallel_for(left, threads, [&](std::int64_t i) { build(i, 1); });
    }
    const std::int64_t steps = (sizes.channels + channel_step - 1) / channel_step;
    const std::int64_t shares = std::clamp<std::int64_t>(threads / left, 1, steps);
    parallel_for(left * shares, threads, [&](std::int64_t task) {
        const std::int64_t i = task / shares, share = task % shares;
        filter_channels(*lattices[static_cast<std::size_t>(i)], ins, outs, sizes, whole + i,
                        steps * share / shares * channel_step,
                        std::min(sizes.channels, steps * (share + 1) / shares * channel_step), transpose, names);
    });
}

}  // namespace

void bilateralfilter_batch(Input images, Input ins, Output outs, std::int64_t N, std::int64_t K, std::int64_t H,
                           std::int64_t W, double sigma_rgb, double sigma_xy, bool transpose) {
    check_size("N", N);
    check_size("K", K);
    check_size("H", H);
    check_size("W", W);
    check_length("images", "N*3*H*W", images.length, {N, 3, H, W});
    check_length("ins", "N*K*H*W", ins.length, {N, K, H, W});
    check_length("outs", "N*K*H*W", outs.length, {N, K, H, W});
    filter_batch(images, ins, outs, {N, K, H, W}, sigma_rgb, sigma_xy, transpose, {"images", "ins", "outs"});
}

void bilateralfilter(Input image, Input in, Output out, std::int64_t H, std::int64_t W, double sigma_rgb,
                     double sigma_xy, bool transpose) {
    check_size("H", H);
    check_size("W", W);
    check_length("image", "3*H*W", image.length, {3, H, W});
    check_length("in", "H*W", in.length, {H, W});
    check_length("out", "H*W", out.length, {H, W});
    filter_batch(image, in, out, {1, 1, H, W}, sigma_rgb, sigma_xy, transpose, {"image", "in", "out"});
}

}  // namespace bilateral
