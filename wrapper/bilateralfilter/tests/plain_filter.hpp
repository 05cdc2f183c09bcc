// The same filter as a textbook would have it: one vertex after another in a map from coordinates, one channel after
// another, no vectors, no threads. The rounding is the same, so the results have to agree bit by bit.

#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <vector>

namespace plain {

constexpr int D = 5;
using Vertex = std::array<int, D + 1>;

struct Simplex {
    std::array<Vertex, D + 1> vertices;
    std::array<float, D + 1> weights;
};

inline Simplex locate(const std::array<float, D>& feature) {
    // Elevate.
    std::array<float, D + 1> elevated;
    float sum = 0;
    for (int j = D; j > 0; --j) {
        const float deviation = static_cast<float>(std::sqrt(2.0 / 3.0) * (D + 1));
        const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>((j + 1) * j)) * deviation);
        const float step = feature[j - 1] * scale;
        elevated[j] = sum - static_cast<float>(j) * step;
        sum += step;
    }
    elevated[0] = sum;

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

    std::array<float, D + 1> sorted;
    for (int r = 0; r <= D; ++r) {
        const int i = order[r];
        sorted[r] = (elevated[i] - static_cast<float>(origin[i])) * (1.0f / (D + 1));
    }
    Simplex simplex;
    simplex.weights[0] = sorted[D] + (1.0f - sorted[0]);
    for (int r = 1; r <= D; ++r) simplex.weights[r] = sorted[D - r] - sorted[D - r + 1];
    for (int r = 0; r <= D; ++r)
        for (int k = 0; k <= D; ++k)
            simplex.vertices[r][order[k]] = origin[order[k]] + (k <= D - r ? r : r - (D + 1));
    return simplex;
}

// image [3, H, W], in and out [K, H, W].
inline void filter(const float* image, const float* in, float* out, std::int64_t K, std::int64_t H, std::int64_t W,
                   float sigma_rgb, float sigma_xy, bool transpose) {
    const std::int64_t pixels = H * W;
    std::map<Vertex, int> number;
    std::vector<std::array<int, D + 1>> vertices;
    std::vector<std::array<float, D + 1>> weights;
    for (std::int64_t i = 0; i < (pixels + 3) / 4 * 4; ++i) {
        std::array<float, D> feature{};
        if (i < pixels)
            feature = {static_cast<float>(i % W) / sigma_xy, static_cast<float>(i / W) / sigma_xy,
                       image[i] / sigma_rgb, image[pixels + i] / sigma_rgb, image[2 * pixels + i] / sigma_rgb};
        const Simplex simplex = locate(feature);
        weights.push_back(simplex.weights);
        vertices.emplace_back();
        for (int r = 0; r <= D; ++r)
            vertices.back()[r] = number.emplace(simplex.vertices[r], static_cast<int>(number.size())).first->second;
    }

    const auto number_or_none = [&](const Vertex& vertex) {
        const auto found = number.find(vertex);
        return found == number.end() ? -1 : found->second;
    };
    std::vector<std::array<std::array<int, 2>, D + 1>> neighbours(number.size());
    for (const auto& [vertex, id] : number)
        for (int j = 0; j <= D; ++j) {
            Vertex up = vertex, down = vertex;
            for (int i = 0; i <= D; ++i) {
                up[i] += i == j ? -D : 1;
                down[i] -= i == j ? -D : 1;
            }
            neighbours[id][j] = {number_or_none(up), number_or_none(down)};
        }

    for (std::int64_t c = 0; c < K; ++c) {
        std::vector<float> values(number.size(), 0.0f), blurred(number.size());
        for (std::int64_t i = 0; i < pixels; ++i)
            for (int r = 0; r <= D; ++r) values[vertices[i][r]] += weights[i][r] * in[c * pixels + i];
        for (int step = 0; step <= D; ++step) {
            for (std::size_t id = 0; id < values.size(); ++id) {
                const auto [one, other] = neighbours[id][transpose ? D - step : step];
                blurred[id] =
                    values[id] + ((one < 0 ? 0.0f : values[one]) + (other < 0 ? 0.0f : values[other])) * 0.5f;
            }
            values.swap(blurred);
        }
        for (std::int64_t i = 0; i < pixels; ++i) {
            float sum = 0;
            for (int r = 0; r <= D; ++r) sum += weights[i][r] * (32.0f / 33.0f) * values[vertices[i][r]];
            out[c * pixels + i] = sum;
        }
    }
}

}  // namespace plain
