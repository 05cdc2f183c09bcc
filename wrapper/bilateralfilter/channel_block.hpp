// Gathering and scattering the channels of a block of points.
//
// Callers keep a channel's points side by side, [channel][point]. The lattice keeps a vertex's channels side by side,
// so that splat, blur and slice handle a vertex in a few vector registers. A ChannelBlock stands between the two.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "vectors.hpp"

namespace bilateral::BILATERAL_TARGET {

// Points are located, stored and moved in blocks of this many, a whole number of vectors on every instruction set.
constexpr int block_size = 16;

// Channels are padded with zeros to a multiple of `channel_step`, and filtered at most `max_channels` at a time: the 21
// of PASCAL VOC at once, which makes splat and slice a fifth faster than in two passes.
constexpr int channel_step = 4;
constexpr int max_channels = 24;

// Calls body(c, zero) for the channels c, c + 1, ... in each of the vectors that make up Width channels; `zero` is a
// vector of that many zeros.
template <int Width, class Body>
BILATERAL_INLINE void for_channel_vectors(const Body& body) {
    BILATERAL_UNROLL
    for (int c = 0; c + lanes <= Width; c += lanes) body(c, Floats{});
    if constexpr (Width % lanes != 0) body(Width - Width % lanes, Vector<float, Width % lanes>{});
}

// Swaps the upper right and the lower left quarter of every square of 2 size x 2 size values, of which `upper` and
// `lower` are rows with `size` rows between them.
template <int size, int n, int... lane>
BILATERAL_INLINE void swap_quarters(Vector<float, n>& upper, Vector<float, n>& lower,
                                    std::integer_sequence<int, lane...>) {
#if defined(__clang__) || __GNUC__ >= 12
    const auto a = __builtin_shufflevector(upper, lower, ((lane & size) ? n + lane - size : lane)...);
    const auto b = __builtin_shufflevector(upper, lower, ((lane & size) ? n + lane : lane + size)...);
#else
    using Index = Vector<std::int32_t, n>;
    const auto a = __builtin_shuffle(upper, lower, Index{((lane & size) ? n + lane - size : lane)...});
    const auto b = __builtin_shuffle(upper, lower, Index{((lane & size) ? n + lane : lane + size)...});
#endif
    upper = a;
    lower = b;
}

// Transposes n x n values, halves of halves: squares of 2, 4, ... n values swap two quarters.
template <int n, int size = 1>
BILATERAL_INLINE void transpose(Vector<float, n> (&row)[n]) {
    BILATERAL_UNROLL
    for (int i = 0; i < n; ++i)
        if (!(i & size)) swap_quarters<size, n>(row[i], row[i + size], std::make_integer_sequence<int, n>());
    if constexpr (2 * size < n) transpose<n, 2 * size>(row);
}

// The channels of one block of points, [point][channel].
template <int Width>
struct alignas(64) ChannelBlock {
    float value[block_size][Width];

    // Reads the block from rows [channel][point] of `row_length` values; in: its first point in the first channel.
    // Channels beyond `channels` become 0.
    void gather(const float* in, int channels, std::int64_t row_length, int points) {
        if (points < block_size) {
            std::memset(value, 0, sizeof value);
            for (int c = 0; c < channels; ++c)
                for (int p = 0; p < points; ++p) value[p][c] = in[c * row_length + p];
            return;
        }
        for_channel_vectors<Width>([&](int c, auto zero) {
            using V = decltype(zero);
            constexpr int n = sizeof(V) / sizeof(float);
            for (int p = 0; p < block_size; p += n) {
                V row[n];
                BILATERAL_UNROLL
                for (int i = 0; i < n; ++i) row[i] = c + i < channels ? load<V>(in + (c + i) * row_length + p) : zero;
                transpose(row);
                BILATERAL_UNROLL
                for (int i = 0; i < n; ++i) store(&value[p + i][c], row[i]);
            }
        });
    }

    // Writes the block to where gather would read it.
    void scatter(float* out, int channels, std::int64_t row_length, int points) const {
        if (points < block_size) {
            for (int c = 0; c < channels; ++c)
                for (int p = 0; p < points; ++p) out[c * row_length + p] = value[p][c];
            return;
        }
        for_channel_vectors<Width>([&](int c, auto zero) {
            using V = decltype(zero);
            constexpr int n = sizeof(V) / sizeof(float);
            for (int p = 0; p < block_size; p += n) {
                V row[n];
                BILATERAL_UNROLL
                for (int i = 0; i < n; ++i) row[i] = load<V>(&value[p + i][c]);
                transpose(row);
                BILATERAL_UNROLL
                for (int i = 0; i < n; ++i)
                    if (c + i < channels) store(out + (c + i) * row_length + p, row[i]);
            }
        });
    }
};

}  // namespace bilateral::BILATERAL_TARGET
