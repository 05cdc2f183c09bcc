// Mean-field inference in a fully connected CRF, on a lattice that is kept.
//
//   [KK11]   P. Krähenbühl, V. Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials.
//            NIPS 2011.
//
// Every iteration [KK11, algorithm 1] is
//
//   Q_i(k)  <-  softmax over k of  L_i(k) + sum_m w_m sum_j n_m(i) K_m(i, j) n_m(j) Q_j(k),    n_m = 1 / sqrt(K_m 1)
//
// with the lattice's kernel for m = 1 and a Gaussian of position for m = 2. The loop is bound by memory, so it makes
// three passes over as little of it as it can: every vertex gathers from its pixels (splat), lines of vertices are
// blurred in place, and every pixel gathers from its vertices and from the pixels around it and takes the softmax. All
// channels of a pixel, as of a vertex, lie side by side, and padding makes them whole vectors.

#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numeric>

#include "bilateralfilter.hpp"
#include "channel_block.hpp"
#include "parallel.hpp"
#include "permutohedral.hpp"
#include "vectors.hpp"
#include "vertex_table.hpp"

namespace bilateral::BILATERAL_TARGET {

// e^x of x <= 0, with a relative error of 1e-7; 0 below -60, so that products with weights are no denormal numbers,
// which are slow.
BILATERAL_INLINE Floats exp_of_negative(Floats x) {
    const Ints vanishes = x < -60.0f;
    x = vanishes ? Floats{} - 60.0f : x;
    // x = n log 2 + r with |r| <= log 2 / 2; log 2 in two parts, of which the first times n is exact.
    const Floats n = (x * 1.44269504f + round_off) - round_off;
    const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats sum = r * 1.9875691500e-4f + 1.3981999507e-3f;
    for (const float coefficient : {8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.0f, 1.0f})
        sum = sum * r + coefficient;
    const Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
    return vanishes ? Floats{} : sum * load<Floats>(&power);
}

// The greatest of the lanes, and their sum.
template <class V, class Combine>
BILATERAL_INLINE float over_lanes(const V& vector, const Combine& combine) {
    constexpr int n = sizeof(V) / sizeof(float);
    if constexpr (n == 1) {
        return vector[0];
    } else {
        using Half = Vector<float, n / 2>;
        float lanes_of[n];
        store(lanes_of, vector);
        return over_lanes(combine(load<Half>(lanes_of), load<Half>(lanes_of + n / 2)), combine);
    }
}

// A run of n vectors of channels. Sums over a run stay in registers.
template <int n>
struct Run {
    Floats vector[n] = {};

    BILATERAL_INLINE static Run load(const float* place) {
        Run run;
        BILATERAL_UNROLL
        for (int v = 0; v < n; ++v) run.vector[v] = BILATERAL_TARGET::load<Floats>(place + v * lanes);
        return run;
    }

    BILATERAL_INLINE void store(float* place) const {
        BILATERAL_UNROLL
        for (int v = 0; v < n; ++v) BILATERAL_TARGET::store(place + v * lanes, vector[v]);
    }

    // Add factor * other.
    BILATERAL_INLINE void add(float factor, const Run& other) {
        BILATERAL_UNROLL
        for (int v = 0; v < n; ++v) vector[v] += factor * other.vector[v];
    }

    // The first and the last value, as a run may begin and end in different cache lines.
    BILATERAL_INLINE static void prefetch(const float* place) {
        __builtin_prefetch(place);
        __builtin_prefetch(place + n * lanes - 1);
    }
};

// Calls body(c, run) for the runs that make up the channels c, c + 1, ... of `width`, a multiple of `lanes`.
template <class Body>
BILATERAL_INLINE void for_runs(std::int64_t width, const Body& body) {
    std::int64_t c = 0;
    for (; width - c >= 3 * lanes; c += 3 * lanes) body(c, Run<3>());
    if (width - c == 2 * lanes) body(c, Run<2>());
    if (width - c == lanes) body(c, Run<1>());
}

template <int D>
class MeanFieldInference {
 public:
    using Lattice = PermutohedralLattice<D>;

    // lattice: that of one image of H x W pixels; empty if the appearance kernel's weight is 0.
    MeanFieldInference(const Lattice& lattice, std::int64_t H, std::int64_t W, const MeanField& settings, int threads)
        : lattice_(lattice), height_(H), width_(W), settings_(settings), threads_(threads) {
        if (settings.appearance_weight != 0) {
            // The longest first.
            parallel_for(2 + D + 1, threads, [&](std::int64_t task, int) {
                if (task == 0) normalise_appearance();
                if (task == 1) sort_incidences();
                if (task >= 2) lines_[task - 2] = lines_along(task - 2);
            });
            const std::int64_t count = static_cast<std::int64_t>(incidences_.size());
            for_parts(count, places_of_task, [&](std::int64_t i, std::int64_t end) {
                for (; i < end; ++i) incidences_[i].weight *= appearance_norm_[incidences_[i].pixel];
            });
        }
        if (settings.smoothness_weight != 0) {
            const double sigma = settings.smoothness_xy, longest = static_cast<double>(std::max(H, W) - 1);
            for (int step = 0; step <= std::min(std::floor(4 * sigma + 0.5), longest); ++step)
                taps_.push_back(static_cast<float>(std::exp(-0.5 * step * step / (sigma * sigma))));
            column_norm_ = smoothness_norm(H);
            row_norm_ = smoothness_norm(W);
        }
    }

    // logits, out: [K][H][W]; they may be the same array, but not otherwise overlap.
    void infer(const float* logits, float* out, std::int64_t K) {
        channels_ = K;
        padded_ = (K + lanes - 1) / lanes * lanes;
        const std::size_t size = static_cast<std::size_t>(pixels() * padded_);
        logits_.resize(size);
        q_.resize(size);
        next_q_.resize(size);
        vertices_.resize((static_cast<std::size_t>(lattice_.vertex_count()) + 1) * padded_);
        std::fill_n(vertices_.begin(), padded_, 0.0f);
        read(logits);
        for (std::int64_t iteration = 0; iteration < settings_.iterations; ++iteration) {
            if (settings_.appearance_weight != 0) {
                splat();
                for (const Buffer<std::int32_t>& line : lines_) blur(line);
            }
            update();
            q_.swap(next_q_);
        }
        write(out);
    }

 private:
    // What one task takes of a loop that threads share: enough that its beginning does not count.
    static constexpr std::int64_t rows_of_task = 8, places_of_task = 1 << 13;

    static constexpr int tile_size = 32;
    static_assert(tile_size >= block_size, "softmax takes blocks and tiles");

    // How many places ahead rows are fetched that lie far apart.
    static constexpr int ahead = 20;

    // A pixel of a vertex.
    struct Incidence {
        std::int32_t pixel;
        float weight;
    };

    [[nodiscard]] std::int64_t pixels() const { return height_ * width_; }

    template <class Body>
    void for_parts(std::int64_t count, std::int64_t part, const Body& body) const {
        parallel_for((count + part - 1) / part, threads_,
                     [&](std::int64_t i, int) { body(i * part, std::min(count, (i + 1) * part)); });
    }

    // Prepare ------------------------------------------------------------------------------------------------------

    // The vertices in the order in which they follow each other along an axis, with a 0 before and after each line of
    // them. Vertices without neighbours are left out, as blurring does not change them.
    Buffer<std::int32_t> lines_along(std::int64_t axis) const {
        const auto& neighbours = lattice_.neighbours(axis);
        Buffer<std::int32_t> line{0};
        for (std::size_t id = 1; id < neighbours.size(); ++id) {
            if (neighbours[id][1] != 0 || neighbours[id][0] == 0) continue;
            for (std::size_t at = id; at != 0; at = neighbours[at][0]) line.push_back(static_cast<std::int32_t>(at));
            line.push_back(0);
        }
        return line;
    }

    // Sort the pixels' weights by vertex.
    void sort_incidences() {
        const auto for_incidences = [&](const auto& body) {
            for (std::int64_t pixel = 0; pixel < pixels(); ++pixel)
                for (int r = 0; r <= D; ++r) body(lattice_.vertex(pixel, r), pixel, lattice_.weight(pixel, r));
        };
        first_incidence_.assign(static_cast<std::size_t>(lattice_.vertex_count()) + 3, 0);
        // Counted two places behind, so that filling in leaves each vertex's first incidence at its own.
        for_incidences([&](std::int32_t vertex, std::int64_t, float) { ++first_incidence_[vertex + 2]; });
        std::partial_sum(first_incidence_.begin(), first_incidence_.end(), first_incidence_.begin());
        incidences_.resize(first_incidence_.back());
        for_incidences([&](std::int32_t vertex, std::int64_t pixel, float weight) {
            incidences_[first_incidence_[vertex + 1]++] = {static_cast<std::int32_t>(pixel), weight};
        });
    }

    // n_1 = 1 / sqrt(K_1 1)
    void normalise_appearance() {
        appearance_norm_.assign(static_cast<std::size_t>(pixels()), 1.0f);
        typename Lattice::Workspace workspace;
        lattice_.filter(appearance_norm_.data(), appearance_norm_.data(), 1, Operator::plain, workspace);
        for (float& sum : appearance_norm_) sum = 1 / std::sqrt(std::max(sum, 1e-20f));
    }

    // n_2 is a product of one factor for the row and one for the column.
    Buffer<float> smoothness_norm(std::int64_t length) const {
        Buffer<float> norm(static_cast<std::size_t>(length), 0.0f);
        const std::int64_t reach = static_cast<std::int64_t>(taps_.size()) - 1;
        for (std::int64_t i = 0; i < length; ++i) {
            for (std::int64_t j = std::max<std::int64_t>(0, i - reach); j <= std::min(length - 1, i + reach); ++j)
                norm[i] += taps_[std::abs(i - j)];
            norm[i] = 1 / std::sqrt(norm[i]);
        }
        return norm;
    }

    // In and out ---------------------------------------------------------------------------------------------------

    template <class Body>
    void for_blocks(const Body& body) const {
        for_parts(pixels(), 64 * block_size, [&](std::int64_t from, std::int64_t to) {
            for (std::int64_t first = from; first < to; first += block_size)
                body(first, static_cast<int>(std::min<std::int64_t>(block_size, to - first)));
        });
    }

    // Reads the logits; Q becomes their softmax.
    void read(const float* logits) {
        for_blocks([&](std::int64_t first, int points) {
            ChannelBlock<lanes> block;
            float* rows = &logits_[first * padded_];
            for (std::int64_t c = 0; c < padded_; c += lanes) {
                const int channels = static_cast<int>(std::min<std::int64_t>(lanes, channels_ - c));
                block.gather(logits + c * pixels() + first, channels, pixels(), points);
                for (int p = 0; p < points; ++p) {
                    std::fill(block.value[p] + channels, block.value[p] + lanes, -1e30f);
                    std::copy_n(block.value[p], lanes, rows + p * padded_ + c);
                }
            }
            std::copy_n(rows, points * padded_, &q_[first * padded_]);
            softmax(&q_[first * padded_], points);
        });
    }

    void write(float* out) const {
        for_blocks([&](std::int64_t first, int points) {
            ChannelBlock<lanes> block;
            for (std::int64_t c = 0; c < padded_; c += lanes) {
                for (int p = 0; p < points; ++p)
                    std::copy_n(&q_[(first + p) * padded_ + c], lanes, block.value[p]);
                const int channels = static_cast<int>(std::min<std::int64_t>(lanes, channels_ - c));
                block.scatter(out + c * pixels() + first, channels, pixels(), points);
            }
        });
    }

    // Message passing ----------------------------------------------------------------------------------------------

    // Every vertex gathers from its pixels.
    void splat() {
        const std::int32_t end = static_cast<std::int32_t>(incidences_.size()) - 1;
        const auto q_row = [&](std::int32_t i) { return &q_[std::int64_t(incidences_[i].pixel) * padded_]; };
        for_parts(lattice_.vertex_count(), places_of_task, [&](std::int64_t from, std::int64_t to) {
            for (std::int64_t vertex = from + 1; vertex <= to; ++vertex)
                for_runs(padded_, [&](std::int64_t c, auto sum) {
                    for (std::int32_t i = first_incidence_[vertex]; i < first_incidence_[vertex + 1]; ++i) {
                        sum.prefetch(q_row(std::min(i + ahead, end)) + c);
                        sum.add(incidences_[i].weight, sum.load(q_row(i) + c));
                    }
                    sum.store(vertex_row(vertex) + c);
                });
        });
    }

    // Add half of both neighbours along an axis, in place.
    void blur(const Buffer<std::int32_t>& line) {
        const std::int64_t end = static_cast<std::int64_t>(line.size()) - 1;
        // Parts begin and end between lines.
        const auto next_line = [&](std::int64_t i) {
            return std::find(line.begin() + i, line.end(), 0) - line.begin();
        };
        for_parts(end, places_of_task, [&](std::int64_t from, std::int64_t to) {
            const std::int64_t first = next_line(from), last = next_line(to);
            for_runs(padded_, [&](std::int64_t c, auto before) {
                auto here = before, unused = before;
                // Passes the 0s too: what they hold is 0, and what is written there is not kept.
                for (std::int64_t i = first; i < last; ++i) {
                    before.prefetch(vertex_row(line[std::min(i + ahead, end)]) + c);
                    const auto after = before.load(vertex_row(line[i + 1]) + c);
                    before.add(1, after);
                    auto blurred = here;
                    blurred.add(0.5f, before);
                    blurred.store(line[i] != 0 ? vertex_row(line[i]) + c : reinterpret_cast<float*>(&unused));
                    before = here;
                    here = after;
                }
            });
        });
    }

    // next Q = softmax(logits + messages)
    void update() {
        for_parts(height_, rows_of_task, [&](std::int64_t from, std::int64_t to) {
            Buffer<float> sums(static_cast<std::size_t>(width_ * padded_));
            for (std::int64_t y = from; y < to; ++y) {
                if (!taps_.empty()) smooth_columns(y, sums.data());
                for (std::int64_t x = 0; x < width_; x += tile_size) {
                    const int points = static_cast<int>(std::min<std::int64_t>(tile_size, width_ - x));
                    float* rows = &next_q_[(y * width_ + x) * padded_];
                    for (int p = 0; p < points; ++p)
                        for_runs(padded_, [&](std::int64_t c, auto sum) {
                            const std::int64_t pixel = y * width_ + x + p;
                            sum = sum.load(&logits_[pixel * padded_ + c]);
                            if (settings_.appearance_weight != 0) slice(pixel, c, sum);
                            if (!taps_.empty()) smooth_row(y, x + p, sums.data() + c, sum);
                            sum.store(rows + p * padded_ + c);
                        });
                    softmax(rows, points);
                }
            }
        });
    }

    // Add a pixel's message by the appearance kernel, for the channels from c on.
    template <int n>
    BILATERAL_INLINE void slice(std::int64_t pixel, std::int64_t c, Run<n>& sum) const {
        const std::int64_t soon = std::min(pixel + ahead, pixels() - 1);
        const float scale = static_cast<float>(settings_.appearance_weight) * Lattice::alpha * appearance_norm_[pixel];
        BILATERAL_UNROLL
        for (int r = 0; r <= D; ++r) {
            sum.prefetch(vertex_row(lattice_.vertex(soon, r)) + c);
            sum.add(scale * lattice_.weight(pixel, r), sum.load(vertex_row(lattice_.vertex(pixel, r)) + c));
        }
    }

    // The sums of the smoothness kernel along the columns, for row y.
    void smooth_columns(std::int64_t y, float* sums) const {
        const std::int64_t length = width_ * padded_, reach = static_cast<std::int64_t>(taps_.size()) - 1;
        const std::int64_t first = std::max<std::int64_t>(0, y - reach), last = std::min(height_ - 1, y + reach);
        for_runs(length, [&](std::int64_t i, auto sum) {
            for (std::int64_t at = first; at <= last; ++at)
                sum.add(taps_[std::abs(at - y)] * column_norm_[at], sum.load(&q_[at * length + i]));
            sum.store(sums + i);
        });
    }

    // Add a pixel's message by the smoothness kernel: along the row, of the columns' sums.
    template <int n>
    BILATERAL_INLINE void smooth_row(std::int64_t y, std::int64_t x, const float* sums, Run<n>& sum) const {
        const std::int64_t reach = static_cast<std::int64_t>(taps_.size()) - 1;
        const std::int64_t first = std::max<std::int64_t>(0, x - reach), last = std::min(width_ - 1, x + reach);
        const float scale = static_cast<float>(settings_.smoothness_weight) * column_norm_[y] * row_norm_[x];
        for (std::int64_t at = first; at <= last; ++at)
            sum.add(scale * taps_[std::abs(at - x)] * row_norm_[at], sum.load(sums + at * padded_));
    }

    // The softmax of at most tile_size rows, each over its channels. Step by step for all rows, so that none waits for
    // its own sums, which halves the time.
    void softmax(float* rows, int points) const {
        float scale[tile_size];
        for (int p = 0; p < points; ++p) {
            Floats most = load<Floats>(rows + p * padded_);
            for (std::int64_t c = lanes; c < padded_; c += lanes) {
                const Floats next = load<Floats>(rows + p * padded_ + c);
                most = most < next ? next : most;
            }
            scale[p] = over_lanes(most, [](auto a, auto b) { return a < b ? b : a; });
        }
        for (int p = 0; p < points; ++p) {
            Floats sums{};
            for (std::int64_t c = 0; c < padded_; c += lanes) {
                float* place = rows + p * padded_ + c;
                const Floats e = exp_of_negative(load<Floats>(place) - scale[p]);
                store(place, e);
                sums += e;
            }
            scale[p] = over_lanes(sums, [](auto a, auto b) { return a + b; });
        }
        for (int p = 0; p < points; ++p) {
            const float factor = 1 / scale[p];
            for (std::int64_t c = 0; c < padded_; c += lanes) {
                float* place = rows + p * padded_ + c;
                store(place, load<Floats>(place) * factor);
            }
        }
    }

    float* vertex_row(std::int32_t vertex) { return &vertices_[static_cast<std::size_t>(vertex) * padded_]; }
    const float* vertex_row(std::int32_t vertex) const {
        return &vertices_[static_cast<std::size_t>(vertex) * padded_];
    }

    const Lattice& lattice_;
    std::int64_t height_, width_;
    MeanField settings_;
    int threads_;
    std::int64_t channels_ = 0, padded_ = 0;

    std::array<Buffer<std::int32_t>, D + 1> lines_;
    Buffer<std::int32_t> first_incidence_;  // of each vertex, in incidences_
    Buffer<Incidence> incidences_;
    Buffer<float> appearance_norm_, column_norm_, row_norm_;
    Buffer<float> taps_;  // the smoothness kernel at distances of 0, 1, ... pixels

    // [pixel or vertex][channel], padded.
    Buffer<float> logits_, q_, next_q_, vertices_;
};

}  // namespace bilateral::BILATERAL_TARGET
