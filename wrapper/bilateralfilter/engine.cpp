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

// Where every pixel of an image lies in feature space: (x / sigma_xy, y / sigma_xy, R / sigma_rgb, ...), in float32.
class PixelFeatures {
 public:
    PixelFeatures(const Problem& problem, std::int64_t n)
        : image_(problem.images.data + n * 3 * problem.shape.pixels()),
          pixels_(problem.shape.pixels()),
          width_(problem.shape.W),
          sigma_rgb_(static_cast<float>(problem.kernel.sigma_rgb)),
          sigma_xy_(static_cast<float>(problem.kernel.sigma_xy)) {
        upper_[0] = static_cast<float>(problem.shape.W - 1) / sigma_xy_;
        upper_[1] = static_cast<float>(problem.shape.H - 1) / sigma_xy_;
        for (int channel = 0; channel < 3; ++channel) {
            const float* values = image_ + channel * pixels_;
            const Range range(values, pixels_);
            if (!range.finite) {
                fail_non_finite(problem.images,
                                std::find_if(values, values + pixels_, [](float v) { return !std::isfinite(v); }));
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
void build_lattice(Worker& worker, const Problem& problem, std::int64_t n, int threads) {
    Stopwatch watch;
    const std::int64_t pixels = problem.shape.pixels();
    // The published filter takes four pixels at a time, filling up the last group with pixels at the origin.
    worker.lattice.build(PixelFeatures(problem, n), pixels, (pixels + 3) / 4 * 4, threads);
    worker.workspace.seconds.build += watch.lap();
}

// The channels first ... last - 1 of image n.
struct Share {
    std::int64_t n, first, last;
};

void filter_share(const Lattice& lattice, const Problem& problem, const Share& share, Lattice::Workspace& workspace) {
    const std::int64_t offset = (share.n * problem.shape.K + share.first) * problem.shape.pixels();
    try {
        lattice.filter(problem.ins.data + offset, problem.outs.data + offset, share.last - share.first,
                       problem.kernel.transpose, workspace);
    } catch (const NonFiniteValue& found) {
        fail_non_finite(problem.ins, found.value);
    }
}

// Images 0 ... count - 1, one a thread.
void filter_whole_images(const Problem& problem, std::int64_t count, std::vector<Worker>& workers) {
    parallel_for(count, static_cast<int>(workers.size()), [&](std::int64_t n, int thread) {
        Worker& worker = workers[static_cast<std::size_t>(thread)];
        build_lattice(worker, problem, n, 1);
        filter_share(worker.lattice, problem, {n, 0, problem.shape.K}, worker.workspace);
    });
}

// The images from `first` on, which are fewer than the threads: several threads share an image.
void filter_shared_images(const Problem& problem, std::int64_t first, std::vector<Worker>& workers) {
    const int threads = static_cast<int>(workers.size());
    const std::int64_t images = problem.shape.N - first;
    const auto build = [&](std::int64_t i, int team) {
        build_lattice(workers[static_cast<std::size_t>(i)], problem, first + i, team);
    };
    if (2 * images <= threads) {
        for (std::int64_t i = 0; i < images; ++i) build(i, threads);
    } else {
        parallel_for(images, threads, [&](std::int64_t i, int) { build(i, 1); });
    }

    // Image i is in the hands of `shares` threads, each of which filters some of its channels.
    const std::int64_t steps = (problem.shape.K + channel_step - 1) / channel_step;
    const std::int64_t shares = std::clamp<std::int64_t>(threads / images, 1, steps);
    parallel_for(images * shares, threads, [&](std::int64_t task, int thread) {
        const std::int64_t i = task / shares, share = task % shares;
        const std::int64_t from = steps * share / shares * channel_step;
        const std::int64_t to = std::min(problem.shape.K, steps * (share + 1) / shares * channel_step);
        filter_share(workers[static_cast<std::size_t>(i)].lattice, problem, {first + i, from, to},
                     workers[static_cast<std::size_t>(thread)].workspace);
    });
}

}  // namespace

PhaseSeconds filter_checked(const Problem& problem, int threads) {
    std::vector<Worker> workers(static_cast<std::size_t>(threads));
    const std::int64_t whole = problem.shape.N / threads * threads;
    filter_whole_images(problem, whole, workers);
    if (whole < problem.shape.N) filter_shared_images(problem, whole, workers);

    PhaseSeconds total;
    for (const Worker& worker : workers) total += worker.workspace.seconds;
    return total;
}

}  // namespace bilateral::BILATERAL_TARGET
