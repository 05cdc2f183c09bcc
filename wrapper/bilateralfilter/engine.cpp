// The work, compiled once for each instruction set (BILATERAL_TARGET).

#include "engine.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel.hpp"
#include "permutohedral.hpp"
#include "vectors.hpp"

namespace bilateral::BILATERAL_TARGET {
namespace {

constexpr int dimensions = 5;
using Lattice = PermutohedralLattice<dimensions>;

// What a thread keeps from image to image.
struct Worker {
    Lattice lattice;
    Lattice::Workspace workspace;
};

[[noreturn]] void fail_non_finite(const char* argument, const float* values, std::int64_t index) {
    throw std::invalid_argument(std::string(argument) + ": expected finite values, found " +
                                std::to_string(values[index]) + " at index " + std::to_string(index));
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

// Where every pixel of an image lies in feature space: (x / sigma_xy, y / sigma_xy, R / sigma_rgb, ...), in float32.
class PixelFeatures {
 public:
    PixelFeatures(const Batch& batch, std::int64_t n)
        : image_(batch.images + n * 3 * batch.pixels()),
          pixels_(batch.pixels()),
          width_(batch.W),
          sigma_rgb_(batch.sigma_rgb),
          sigma_xy_(batch.sigma_xy) {
        upper_[0] = static_cast<float>(batch.W - 1) / sigma_xy_;
        upper_[1] = static_cast<float>(batch.H - 1) / sigma_xy_;
        for (int channel = 0; channel < 3; ++channel) {
            const float* values = image_ + channel * pixels_;
            const Range range(values, pixels_);
            if (!range.finite) {
                const float* found = std::find_if(values, values + pixels_, [](float v) { return !std::isfinite(v); });
                fail_non_finite(batch.image_name, batch.images, found - batch.images);
            }
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
void build_lattice(Worker& worker, const Batch& batch, std::int64_t n, int threads) {
    Stopwatch watch;
    const PixelFeatures features(batch, n);
    // The published filter takes four pixels at a time, filling up the last group with pixels at the origin.
    worker.lattice.build(features, batch.pixels(), (batch.pixels() + 3) / 4 * 4, threads);
    worker.workspace.seconds.build += watch.lap();
}

// Filter channels first ... last - 1 of image n.
void filter_channels(const Lattice& lattice, const Batch& batch, std::int64_t n, std::int64_t first, std::int64_t last,
                     Lattice::Workspace& workspace) {
    const std::int64_t offset = (n * batch.K + first) * batch.pixels();
    try {
        lattice.filter(batch.ins + offset, batch.outs + offset, last - first, batch.transpose, workspace);
    } catch (const NonFiniteValue& found) {
        fail_non_finite(batch.in_name, batch.ins, found.value - batch.ins);
    }
}

}  // namespace

PhaseSeconds filter_batch(const Batch& batch, int threads) {
    std::vector<Worker> workers(static_cast<std::size_t>(threads));

    // Whole images, one a thread, as long as there is one for each.
    const std::int64_t whole = batch.N / threads * threads;
    parallel_for(whole, threads, [&](std::int64_t n, int thread) {
        Worker& worker = workers[static_cast<std::size_t>(thread)];
        build_lattice(worker, batch, n, 1);
        filter_channels(worker.lattice, batch, n, 0, batch.K, worker.workspace);
    });

    // Fewer images than threads are left: several threads share an image.
    const std::int64_t left = batch.N - whole;
    if (left > 0) {
        const auto build = [&](std::int64_t i, int team) {
            build_lattice(workers[static_cast<std::size_t>(i)], batch, whole + i, team);
        };
        if (2 * left <= threads) {
            for (std::int64_t i = 0; i < left; ++i) build(i, threads);
        } else {
            parallel_for(left, threads, [&](std::int64_t i, int) { build(i, 1); });
        }
        const std::int64_t steps = (batch.K + channel_step - 1) / channel_step;
        const std::int64_t shares = std::clamp<std::int64_t>(threads / left, 1, steps);
        parallel_for(left * shares, threads, [&](std::int64_t task, int thread) {
            const std::int64_t i = task / shares, share = task % shares;
            filter_channels(workers[static_cast<std::size_t>(i)].lattice, batch, whole + i,
                            steps * share / shares * channel_step,
                            std::min(batch.K, steps * (share + 1) / shares * channel_step),
                            workers[static_cast<std::size_t>(thread)].workspace);
        });
    }

    PhaseSeconds total;
    for (const Worker& worker : workers) total += worker.workspace.seconds;
    return total;
}

}  // namespace bilateral::BILATERAL_TARGET
