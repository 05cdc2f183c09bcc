// Sums over the window around every pixel; compiled once for each instruction set.

#include "window.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#include "parallel.hpp"
#include "vectors.hpp"

namespace bilateral::BILATERAL_TARGET {
namespace {

// Pixels are worked on in blocks of two rows, so that a value, once loaded, serves both of them, and of a register's
// width; a weight, once loaded, serves several channels.
constexpr int block_rows = 2;
constexpr int channels_at_once = 4;

// 2^x for x up to 0, with a relative error of about 1e-7; 0 below 2^-66, or 1e-20, as products with such numbers may be
// denormal, with which processors are slow.
//
// x = n + r with |r| <= 1/2; a Taylor polynomial gives 2^r, and 2^n is put together from bits.
BILATERAL_INLINE Floats power_of_two(Floats x) {
    constexpr float least = -66.0f;
    const Floats shifted = (x < least ? Floats{} + least : x) + round_off;
    const Floats r = x - (shifted - round_off);
    // The powers of log 2 over the factorials.
    Floats power = r * 1.5403530e-4f + 1.3333558e-3f;
    for (const float next : {9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f})
        power = power * r + next;
    Ints bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + (127 << 23);  // the last bits of `shifted` are n
    Floats scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return x < least ? Floats{} : power * scale;
}

// Planes of an image with a margin of zeros all around, and as many more at its end as a block needs.
class Padded {
 public:
    Padded(const Window& window, std::int64_t planes)
        : width_(window.W),
          height_(window.H),
          rows_(window.rows()),
          columns_(window.columns()),
          stride_((width_ + lanes - 1) / lanes * lanes + 2 * columns_),
          plane_(stride_ * ((height_ + block_rows - 1) / block_rows * block_rows + 2 * rows_)),
          values_(static_cast<std::size_t>(planes * plane_)) {}

    [[nodiscard]] std::int64_t stride() const { return stride_; }
    [[nodiscard]] std::int64_t plane() const { return plane_; }

    [[nodiscard]] const float* at(std::int64_t plane, std::int64_t y, std::int64_t x) const {
        return values_.data() + index(plane, y, x);
    }

    void set(std::int64_t plane, const float* values) {
        for (std::int64_t y = 0; y < height_; ++y)
            std::copy_n(values + y * width_, width_, values_.data() + index(plane, y, 0));
    }

 private:
    [[nodiscard]] std::int64_t index(std::int64_t plane, std::int64_t y, std::int64_t x) const {
        return plane * plane_ + (y + rows_) * stride_ + columns_ + x;
    }

    std::int64_t width_, height_, rows_, columns_, stride_, plane_;
    std::vector<float> values_;
};

// A pixel seen from those of a block at (y, x): at (y + dy, x + dx) from the first row.
struct Neighbour {
    std::int64_t step;             // to it, in a padded plane
    float appearance[block_rows];  // from each row, its distance's part in the exponent, to the base of 2,
    float smoothness[block_rows];  // and the second kernel's value
};

std::vector<Neighbour> neighbours_in(const Window& window, std::int64_t stride) {
    std::vector<Neighbour> found;
    const double log2_e = 1 / std::log(2.0);
    for (std::int64_t dy = -window.rows(); dy < window.rows() + block_rows; ++dy)
        for (std::int64_t dx = -window.columns(); dx <= window.columns(); ++dx) {
            Neighbour next{dy * stride + dx, {}, {}};
            for (int row = 0; row < block_rows; ++row) {
                const std::int64_t down = dy - row;
                next.appearance[row] = -std::numeric_limits<float>::infinity();
                if (std::abs(down) > window.rows() || (down == 0 && dx == 0)) continue;
                const double exponent = -0.5 * static_cast<double>(down * down + dx * dx);
                next.appearance[row] = static_cast<float>(log2_e * exponent / window.sigma_xy / window.sigma_xy);
                next.smoothness[row] = static_cast<float>(
                    window.smoothness_weight * std::exp(exponent / window.smoothness_xy / window.smoothness_xy));
            }
            found.push_back(next);
        }
    return found;
}

// The weights from the pixels of a block at (y, x) to their neighbours, [neighbour][row][pixel]. Those that are beyond
// a row's window, the last ones of the first row and the first ones of the last, remain 0.
void weigh(const Padded& guide, std::int64_t y, std::int64_t x, const std::vector<Neighbour>& neighbours,
           std::size_t neighbours_of_a_row, float colour_factor, float* weights) {
    for (int row = 0; row < block_rows; ++row) {
        Floats here[4];
        const float* place[4];
        for (int i = 0; i < 4; ++i) {
            here[i] = load<Floats>(guide.at(i, y + row, x));
            place[i] = guide.at(i, y, x);
        }
        const std::size_t first = row * neighbours_of_a_row;
        const std::size_t last = neighbours.size() - (block_rows - 1 - row) * neighbours_of_a_row;
        for (std::size_t j = first; j < last; ++j) {
            Floats square{};
            BILATERAL_UNROLL
            for (int i = 0; i < 3; ++i) {
                const Floats difference = here[i] - load<Floats>(place[i] + neighbours[j].step);
                square += difference * difference;
            }
            const Floats kernel = power_of_two(square * colour_factor + neighbours[j].appearance[row]);
            const Floats ends = here[3] + load<Floats>(place[3] + neighbours[j].step);
            store(weights + (j * block_rows + row) * lanes, (kernel + neighbours[j].smoothness[row]) * ends);
        }
    }
}

using Sums = float[channels_at_once][block_rows][lanes];

// The weighted sums of `count` planes over the neighbours of the pixels of a block.
template <int count>
void sum(const float* values, std::int64_t plane, const std::vector<Neighbour>& neighbours, const float* weights,
         Sums& sums) {
    Floats total[count][block_rows] = {};
    const float* planes[count];
    BILATERAL_UNROLL
    for (int c = 0; c < count; ++c) planes[c] = values + c * plane;
    for (const Neighbour& neighbour : neighbours) {
        BILATERAL_UNROLL
        for (int c = 0; c < count; ++c) {
            const Floats value = load<Floats>(planes[c] + neighbour.step);
            BILATERAL_UNROLL
            for (int row = 0; row < block_rows; ++row) total[c][row] += load<Floats>(weights + row * lanes) * value;
        }
        weights += block_rows * lanes;
    }
    std::memcpy(sums, total, sizeof total);
}

// The same of the last planes.
template <int count = channels_at_once>
void sum_rest(int rest, const float* values, std::int64_t plane, const std::vector<Neighbour>& neighbours,
              const float* weights, Sums& sums) {
    if constexpr (count > 1)
        if (rest < count) return sum_rest<count - 1>(rest, values, plane, neighbours, weights, sums);
    sum<count>(values, plane, neighbours, weights, sums);
}

}  // namespace

void window_checked(const Window& window, const WindowChannels& channels, int threads) {
    const std::int64_t H = window.H, W = window.W, pixels = H * W, K = channels.K;
    const auto colour_factor = static_cast<float>(-0.5 / std::log(2.0) / window.sigma_rgb / window.sigma_rgb);
    Padded guide(window, 4), values(window, K + 1);  // the last plane are ones, whose sums are the masses
    values.set(K, std::vector<float>(static_cast<std::size_t>(pixels), 1.0f).data());
    const std::vector<Neighbour> neighbours = neighbours_in(window, values.stride());
    std::vector<std::vector<float>> weights(static_cast<std::size_t>(threads));
    for (std::int64_t n = 0; n < window.N; ++n) {
        for (int i = 0; i < 3; ++i) guide.set(i, window.images.data + (n * 3 + i) * pixels);
        guide.set(3, window.regions.data + n * pixels);
        for (std::int64_t k = 0; k < K; ++k) values.set(k, channels.ins.data + (n * K + k) * pixels);
        parallel_for((H + block_rows - 1) / block_rows, threads, [&](std::int64_t part, int thread) {
            std::vector<float>& own = weights[static_cast<std::size_t>(thread)];
            own.resize(neighbours.size() * block_rows * lanes);
            const std::int64_t y = part * block_rows, rows = std::min<std::int64_t>(block_rows, H - y);
            Sums sums;
            for (std::int64_t x = 0; x < W; x += lanes) {
                weigh(guide, y, x, neighbours, 2 * window.columns() + 1, colour_factor, own.data());
                for (std::int64_t k = 0; k <= K; ++k) {
                    const std::int64_t c = k % channels_at_once;
                    if (c == 0)
                        sum_rest(static_cast<int>(std::min<std::int64_t>(channels_at_once, K + 1 - k)),
                                 values.at(k, y, x), values.plane(), neighbours, own.data(), sums);
                    float* out = k < K ? channels.outs.data + (n * K + k) * pixels : channels.masses.data + n * pixels;
                    for (std::int64_t row = 0; row < rows; ++row)
                        std::copy_n(sums[c][row], std::min<std::int64_t>(lanes, W - x), out + (y + row) * W + x);
                }
            }
        });
    }
}

}  // namespace bilateral::BILATERAL_TARGET
