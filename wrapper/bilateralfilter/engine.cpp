// The work, compiled once for each instruction set (BILATERAL_TARGET).

#include "engine.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "mean_field.hpp"
#include "parallel.hpp"
#include "permutohedral.hpp"
#include "vectors.hpp"

namespace bilateral::BILATERAL_TARGET {
namespace {

constexpr int dimensions = 5;
using Lattice = PermutohedralLattice<dimensions>;

using Workspaces = std::vector<Lattice::Workspace>;

[[noreturn]] void fail_non_finite(const Input& array, const float* value) {
    throw std::invalid_argument(std::string(array.name) + ": expected finite values, found " + std::to_string(*value) +
                                " at index " + std::to_string(value - array.data));
}

// The range of values, 0 included, and whether all are finite.
struct Range {
    float low = 0, high = 0;
    bool finite = true;

    Range(const float* values, std::int64_t count) {
        Floats lows{}, highs{}, zeros{};
        std::int64_t i = 0;
        for (; i + lanes <= count; i += lanes) {
            const Floats next = load<Floats>(values + i);
            lows = next < lows ? next : lows;
            highs = next > highs ? next : highs;
            zeros += next * 0.0f;
        }
        const auto add = [&](float least, float greatest, float zero) {
            low = std::min(low, least);
            high = std::max(high, greatest);
            finite &= zero == 0.0f;
        };
        for (int p = 0; p < lanes; ++p) add(lows[p], highs[p], zeros[p]);
        for (; i < count; ++i) add(values[i], values[i], values[i] * 0.0f);
    }
};

const float* first_non_finite(const float* values, std::int64_t count) {
    return std::find_if(values, values + count, [](float v) { return !std::isfinite(v); });
}

// Where every pixel of an image lies in feature space: (x / sigma_xy, y / sigma_xy, R / sigma_rgb, ...), in float32.
class PixelFeatures {
 public:
    PixelFeatures(const Guide& guide, std::int64_t n)
        : image_(guide.images.data + n * 3 * guide.pixels()),
          pixels_(guide.pixels()),
          width_(guide.W),
          sigma_rgb_(static_cast<float>(guide.sigma_rgb)),
          sigma_xy_(static_cast<float>(guide.sigma_xy)) {
        upper_[0] = static_cast<float>(guide.W - 1) / sigma_xy_;
        upper_[1] = static_cast<float>(guide.H - 1) / sigma_xy_;
        for (int channel = 0; channel < 3; ++channel) {
            const float* values = image_ + channel * pixels_;
            const Range range(values, pixels_);
            if (!range.finite) fail_non_finite(guide.images, first_non_finite(values, pixels_));
            lower_[2 + channel] = range.low / sigma_rgb_;
            upper_[2 + channel] = range.high / sigma_rgb_;
        }
    }

    [[nodiscard]] float lower(int i) const { return lower_[i]; }
    [[nodiscard]] float upper(int i) const { return upper_[i]; }

    void load(std::int64_t first, Floats (&position)[dimensions]) const {
        const Ints lane = lane_numbers();
        Ints x = static_cast<std::int32_t>(first % width_) + lane;
        Ints y = static_cast<std::int32_t>(first / width_) + Ints{};
        // The lanes from where a new row begins.
        for (std::int64_t start = width_ - first % width_; start < lanes; start += width_) {
            const Ints beyond = lane >= static_cast<std::int32_t>(start);
            x -= beyond & static_cast<std::int32_t>(width_);
            y -= beyond;
        }
        position[0] = __builtin_convertvector(x, Floats);
        position[1] = __builtin_convertvector(y, Floats);
        for (int channel = 0; channel < 3; ++channel) {
            const float* values = image_ + channel * pixels_;
            if (first + lanes <= pixels_) {
                position[2 + channel] = BILATERAL_TARGET::load<Floats>(values + first);
            } else {
                position[2 + channel] = Floats{};
                for (int p = 0; p < pixels_ - first; ++p) position[2 + channel][p] = values[first + p];
            }
        }
        // Beyond the last pixel: the origin.
        if (first + lanes > pixels_)
            for (int i = 0; i < 2; ++i)
                position[i] = lane < static_cast<std::int32_t>(pixels_ - first) ? position[i] : Floats{};
        for (int i = 0; i < dimensions; ++i) position[i] /= i < 2 ? sigma_xy_ : sigma_rgb_;
    }

 private:
    const float* image_;
    std::int64_t pixels_, width_;
    float sigma_rgb_, sigma_xy_;
    float lower_[dimensions] = {}, upper_[dimensions] = {};
};

// Build the lattice of image n.
void build_lattice(Lattice& lattice, const Guide& guide, std::int64_t n, int threads, Lattice::Workspace& workspace) {
    const std::int64_t pixels = guide.pixels();
    // The published filter takes four pixels at a time, filling up the last group with pixels at the origin.
    lattice.build(PixelFeatures(guide, n), pixels, (pixels + 3) / 4 * 4, threads, workspace);
}

// Build the lattices of the images from `first` on, as many as there are.
void build_lattices(std::vector<Lattice>& lattices, const Guide& guide, std::int64_t first, Workspaces& workspaces) {
    const std::int64_t count = static_cast<std::int64_t>(lattices.size());
    const int threads = static_cast<int>(workspaces.size());
    const auto build = [&](std::int64_t i, int thread, int team) {
        build_lattice(lattices[static_cast<std::size_t>(i)], guide, first + i, team,
                      workspaces[static_cast<std::size_t>(thread)]);
    };
    if (2 * count <= threads) {
        for (std::int64_t i = 0; i < count; ++i) build(i, 0, threads);
    } else {
        parallel_for(count, threads, [&](std::int64_t i, int thread) { build(i, thread, 1); });
    }
}

// Filter the channels first ... last - 1 of image n.
void filter_share(const Lattice& lattice, const Channels& channels, std::int64_t n, std::int64_t first,
                  std::int64_t last, Lattice::Workspace& workspace) {
    const std::int64_t offset = (n * channels.K + first) * lattice.point_count();
    try {
        lattice.filter(channels.ins.data + offset, channels.outs.data + offset, last - first, channels.applied,
                       workspace);
    } catch (const NonFiniteValue& found) {
        fail_non_finite(channels.ins, found.value);
    }
}

// Filter the images from `first` on, whose lattices are given. Each is in the hands of `shares` threads, of which each
// filters some of its channels.
void filter_images(const Lattice* lattices, std::int64_t count, std::int64_t shares, const Channels& channels,
                   std::int64_t first, Workspaces& workspaces) {
    const std::int64_t steps = (channels.K + channel_step - 1) / channel_step;
    shares = std::min(shares, steps);
    parallel_for(count * shares, static_cast<int>(workspaces.size()), [&](std::int64_t task, int thread) {
        const std::int64_t i = task / shares, share = task % shares;
        const std::int64_t from = steps * share / shares * channel_step;
        const std::int64_t to = std::min(channels.K, steps * (share + 1) / shares * channel_step);
        filter_share(lattices[i], channels, first + i, from, to, workspaces[static_cast<std::size_t>(thread)]);
    });
}

PhaseSeconds total(const Workspaces& workspaces) {
    PhaseSeconds sum;
    for (const Lattice::Workspace& workspace : workspaces) sum += workspace.seconds;
    return sum;
}

class LatticesOfBatch : public BuiltLattice {
 public:
    LatticesOfBatch(const Guide& guide, int threads) : lattices_(static_cast<std::size_t>(guide.N)) {
        Workspaces workspaces(static_cast<std::size_t>(threads));
        build_lattices(lattices_, guide, 0, workspaces);
    }

    PhaseSeconds filter(const Channels& channels, int threads) const override {
        Workspaces workspaces(static_cast<std::size_t>(threads));
        const std::int64_t images = static_cast<std::int64_t>(lattices_.size()), rest = images % threads;
        const std::int64_t whole = images - rest;
        filter_images(lattices_.data(), whole, 1, channels, 0, workspaces);
        if (rest > 0) filter_images(lattices_.data() + whole, rest, threads / rest, channels, whole, workspaces);
        return total(workspaces);
    }

 private:
    std::vector<Lattice> lattices_;
};

}  // namespace

// As many images as there are threads share the memory of their lattices, one a thread; several threads share each of
// the images that remain.
PhaseSeconds filter_checked(const Guide& guide, const Channels& channels, int threads) {
    Workspaces workspaces(static_cast<std::size_t>(threads));
    std::vector<Lattice> lattices(static_cast<std::size_t>(threads));
    const std::int64_t rest = guide.N % threads, whole = guide.N - rest;
    parallel_for(whole, threads, [&](std::int64_t n, int thread) {
        Lattice& lattice = lattices[static_cast<std::size_t>(thread)];
        Lattice::Workspace& workspace = workspaces[static_cast<std::size_t>(thread)];
        build_lattice(lattice, guide, n, 1, workspace);
        filter_share(lattice, channels, n, 0, channels.K, workspace);
    });
    if (rest > 0) {
        lattices.resize(static_cast<std::size_t>(rest));
        build_lattices(lattices, guide, whole, workspaces);
        filter_images(lattices.data(), rest, threads / rest, channels, whole, workspaces);
    }
    return total(workspaces);
}

std::unique_ptr<const BuiltLattice> build_checked(const Guide& guide, int threads) {
    return std::make_unique<LatticesOfBatch>(guide, threads);
}

// Image after image, each by all threads.
void mean_field_checked(const Guide& guide, const Channels& channels, const MeanField& settings, int threads) {
    const std::int64_t length = channels.K * guide.pixels();
    for (std::int64_t n = 0; n < guide.N; ++n) {
        const float* logits = channels.ins.data + n * length;
        if (!Range(logits, length).finite) fail_non_finite(channels.ins, first_non_finite(logits, length));
        Lattice::Workspace workspace;
        Lattice lattice;
        if (settings.appearance_weight != 0) build_lattice(lattice, guide, n, threads, workspace);
        MeanFieldInference<dimensions>(lattice, guide.H, guide.W, settings, threads)
            .infer(logits, channels.outs.data + n * length, channels.K);
    }
}

}  // namespace bilateral::BILATERAL_TARGET
