// The place to begin reading: the same filter as a textbook would have it, one vertex after another in a map from
// coordinates, one channel after another, no vectors, no threads. The rounding is the same as in ../permutohedral.hpp,
// so the results have to agree bit by bit. The steps, their sources and the constants are explained there.

#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <vector>

#include "../bilateralfilter.hpp"

namespace plain {

constexpr int D = 5;  // x, y, R, G, B
using Vertex = std::array<int, D + 1>;

// A point's simplex: its vertices of colours 0..D, and the point's barycentric coordinates.
struct Simplex {
    std::array<Vertex, D + 1> vertices;
    std::array<float, D + 1> weights;
};

// Elevate the point into the hyperplane sum(x) = 0.
inline std::array<float, D + 1> elevate(const std::array<float, D>& feature) {
    const float deviation = static_cast<float>(std::sqrt(2.0 / 3.0) * (D + 1));
    std::array<float, D + 1> elevated;
    float sum = 0;
    for (int j = D; j > 0; --j) {
        const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>((j + 1) * j)) * deviation);
        const float step = feature[j - 1] * scale;
        elevated[j] = sum - static_cast<float>(j) * step;
        sum += step;
    }
    elevated[0] = sum;
    return elevated;
}

inline Simplex locate(const std::array<float, D + 1>& elevated) {
    // Round to the closest vertex of colour 0, which may miss the hyperplane.
    Vertex origin;
    int off_plane = 0;
    std::array<float, D + 1> residual;
    for (int i = 0; i <= D; ++i) {
        const float rounded = std::nearbyint(elevated[i] * (1.0f / (D + 1)));
        origin[i] = static_cast<int>(rounded) * (D + 1);
        residual[i] = elevated[i] - rounded * (D + 1);
        off_plane += static_cast<int>(rounded);
    }

    // Order the coordinates by their residuals, the first of equal ones first; go back to the hyperplane.
    std::array<int, D + 1> order;
    for (int i = 0; i <= D; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return residual[a] > residual[b]; });
    for (; off_plane > 0; --off_plane) {
        origin[order[D]] -= D + 1;
        std::rotate(order.begin(), order.end() - 1, order.end());
    }
    for (; off_plane < 0; ++off_plane) {
        origin[order[0]] += D + 1;
        std::rotate(order.begin(), order.begin() + 1, order.end());
    }

    // The weights are differences of successive residuals; the vertices are those of the canonical simplex, its
    // coordinates put into this order.
    std::array<float, D + 1> sorted;
    for (int r = 0; r <= D; ++r)
        sorted[r] = (elevated[order[r]] - static_cast<float>(origin[order[r]])) * (1.0f / (D + 1));
    Simplex simplex;
    simplex.weights[0] = sorted[D] + (1.0f - sorted[0]);
    for (int r = 1; r <= D; ++r) simplex.weights[r] = sorted[D - r] - sorted[D - r + 1];
    for (int r = 0; r <= D; ++r)
        for (int k = 0; k <= D; ++k)
            simplex.vertices[r][order[k]] = origin[order[k]] + (k <= D - r ? r : r - (D + 1));
    return simplex;
}

// The simplices of an image's pixels, with the vertices numbered 0, 1, ..., and each vertex's two neighbours along each
// axis, -1 where there is none.
struct Lattice {
    std::vector<std::array<int, D + 1>> vertices;
    std::vector<std::array<float, D + 1>> weights;
    std::vector<std::array<std::array<int, 2>, D + 1>> neighbours;
};

// image: [3, H, W].
inline Lattice build(const float* image, std::int64_t H, std::int64_t W, float sigma_rgb, float sigma_xy) {
    const std::int64_t pixels = H * W;
    Lattice lattice;
    std::map<Vertex, int> number;
    // The published filter fills up the pixels to a multiple of four with ones at the origin.
    for (std::int64_t i = 0; i < (pixels + 3) / 4 * 4; ++i) {
        std::array<float, D> feature{};
        if (i < pixels)
            feature = {static_cast<float>(i % W) / sigma_xy, static_cast<float>(i / W) / sigma_xy,
                       image[i] / sigma_rgb, image[pixels + i] / sigma_rgb, image[2 * pixels + i] / sigma_rgb};
        const Simplex simplex = locate(elevate(feature));
        lattice.weights.push_back(simplex.weights);
        lattice.vertices.emplace_back();
        for (int r = 0; r <= D; ++r)
            lattice.vertices.back()[r] =
                number.emplace(simplex.vertices[r], static_cast<int>(number.size())).first->second;
    }

    const auto number_or_none = [&](const Vertex& vertex) {
        const auto found = number.find(vertex);
        return found == number.end() ? -1 : found->second;
    };
    lattice.neighbours.resize(number.size());
    for (const auto& [vertex, id] : number)
        for (int j = 0; j <= D; ++j) {
            Vertex up = vertex, down = vertex;
            for (int i = 0; i <= D; ++i) {
                up[i] += i == j ? -D : 1;
                down[i] -= i == j ? -D : 1;
            }
            lattice.neighbours[id][j] = {number_or_none(up), number_or_none(down)};
        }
    return lattice;
}

// Splat, blur and slice one channel: in and out are [H, W].
inline void filter_channel(const Lattice& lattice, const float* in, float* out, std::int64_t pixels, bool transpose) {
    std::vector<float> values(lattice.neighbours.size(), 0.0f), blurred(values.size());
    for (std::int64_t i = 0; i < pixels; ++i)
        for (int r = 0; r <= D; ++r) values[lattice.vertices[i][r]] += lattice.weights[i][r] * in[i];

    const auto value_or_zero = [&](int id) { return id < 0 ? 0.0f : values[id]; };
    for (int step = 0; step <= D; ++step) {
        for (std::size_t id = 0; id < values.size(); ++id) {
            const auto [one, other] = lattice.neighbours[id][transpose ? D - step : step];
            blurred[id] = values[id] + (value_or_zero(one) + value_or_zero(other)) * 0.5f;
        }
        values.swap(blurred);
    }

    constexpr float alpha = 32.0f / 33.0f;  // 1 / (1 + 2^-D)
    for (std::int64_t i = 0; i < pixels; ++i) {
        float sum = 0;
        for (int r = 0; r <= D; ++r) sum += lattice.weights[i][r] * alpha * values[lattice.vertices[i][r]];
        out[i] = sum;
    }
}

inline void filter(const bilateral::Guide& guide, const bilateral::Channels& channels) {
    using bilateral::Operator;
    const std::int64_t pixels = guide.pixels();
    std::vector<float> other(static_cast<std::size_t>(pixels));
    for (std::int64_t n = 0; n < guide.N; ++n) {
        const Lattice lattice = build(guide.images.data + n * 3 * pixels, guide.H, guide.W,
                                      static_cast<float>(guide.sigma_rgb), static_cast<float>(guide.sigma_xy));
        for (std::int64_t channel = n * channels.K; channel < (n + 1) * channels.K; ++channel) {
            const float* in = channels.ins.data + channel * pixels;
            float* out = channels.outs.data + channel * pixels;
            filter_channel(lattice, in, out, pixels, channels.applied == Operator::transposed);
            if (channels.applied != Operator::symmetric) continue;
            filter_channel(lattice, in, other.data(), pixels, true);
            for (std::int64_t i = 0; i < pixels; ++i) out[i] = (out[i] + other[i]) * 0.5f;
        }
    }
}

// Mean-field inference, for the interface's mean_field.
inline void mean_field(const bilateral::Guide& guide, const bilateral::Channels& channels,
                       const bilateral::MeanField& settings) {
    const std::int64_t pixels = guide.pixels(), W = guide.W, K = channels.K;
    std::vector<float> ones(static_cast<std::size_t>(pixels), 1.0f);
    const auto smoothed = [&](const std::vector<float>& in) {
        const double sigma = settings.smoothness_xy, reach = std::floor(4 * sigma + 0.5);
        std::vector<float> out(in.size());
        for (std::int64_t i = 0; i < pixels; ++i) {
            double sum = 0;
            for (std::int64_t j = 0; j < pixels; ++j) {
                const double x = static_cast<double>(i % W - j % W), y = static_cast<double>(i / W - j / W);
                if (std::abs(x) <= reach && std::abs(y) <= reach)
                    sum += std::exp(-(x * x + y * y) / (2 * sigma * sigma)) * in[j];
            }
            out[i] = static_cast<float>(sum);
        }
        return out;
    };
    for (std::int64_t n = 0; n < guide.N; ++n) {
        const Lattice lattice = build(guide.images.data + n * 3 * pixels, guide.H, W,
                                      static_cast<float>(guide.sigma_rgb), static_cast<float>(guide.sigma_xy));
        const auto filtered = [&](const std::vector<float>& in) {
            std::vector<float> out(in.size());
            filter_channel(lattice, in.data(), out.data(), pixels, false);
            return out;
        };
        const std::vector<float> norms[] = {filtered(ones), smoothed(ones)};
        const double weights[] = {settings.appearance_weight, settings.smoothness_weight};
        const float* logits = channels.ins.data + n * K * pixels;
        float* q = channels.outs.data + n * K * pixels;
        std::vector<double> sums(logits, logits + K * pixels);
        for (std::int64_t step = 0;; ++step) {
            for (std::int64_t i = 0; i < pixels; ++i) {
                double most = sums[i], total = 0;
                for (std::int64_t k = 0; k < K; ++k) most = std::max(most, sums[k * pixels + i]);
                for (std::int64_t k = 0; k < K; ++k) total += std::exp(sums[k * pixels + i] - most);
                for (std::int64_t k = 0; k < K; ++k)
                    q[k * pixels + i] = static_cast<float>(std::exp(sums[k * pixels + i] - most) / total);
            }
            if (step == settings.iterations) break;
            for (std::int64_t k = 0; k < K; ++k) {
                std::copy_n(logits + k * pixels, pixels, &sums[k * pixels]);
                for (int m = 0; m < 2; ++m) {
                    std::vector<float> in(q + k * pixels, q + (k + 1) * pixels);
                    for (std::int64_t i = 0; i < pixels; ++i) in[i] /= std::sqrt(norms[m][i]);
                    const std::vector<float> out = m == 0 ? filtered(in) : smoothed(in);
                    for (std::int64_t i = 0; i < pixels; ++i)
                        sums[k * pixels + i] += weights[m] * out[i] / std::sqrt(norms[m][i]);
                }
            }
        }
    }
}

}  // namespace plain
