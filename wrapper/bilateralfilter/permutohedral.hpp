// The permutohedral lattice: Gaussian filtering in D dimensions in time linear in the number of points.
//
//   [ABD10]  A. Adams, J. Baek, M. A. Davis: Fast High-Dimensional Filtering Using the Permutohedral Lattice.
//            Computer Graphics Forum 29(2), 2010.
//   [KK11]   P. Krähenbühl, V. Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials.
//            NIPS 2011. Order of operations, tie-breaking and rounding follow the filter published with it, so that the
//            results agree with that one's bit by bit.
//
// A point at position p with values v is embedded in the hyperplane sum(x) = 0 of R^(D+1) ("elevation"), which is
// tiled by simplices whose vertices form the lattice A*_D. Filtering is three sparse linear maps:
//
//   splat   every point adds its values to the D+1 vertices of its simplex, with barycentric weights   (matrix S^T)
//   blur    along each of the D+1 lattice directions with the kernel (1/2, 1, 1/2)                     (B_0, ..., B_D)
//   slice   every point gathers its vertices' values with the same weights                             (matrix S)
//
//   A = alpha * S * B_D * ... * B_0 * S^T,      A^T = alpha * S * B_0 * ... * B_D * S^T
//
// Each B_j is symmetric, but they commute only where no neighbour is missing, so A itself is not quite symmetric.
//
// What makes it fast, explained where it stands: a vertex is one integer code (VertexCoding), and all channels of a
// point lie side by side (PermutohedralLattice::filter).

#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "parallel.hpp"

// Before a short loop inside one that is to become vector code. Clang unrolls these by itself.
#if defined(__GNUC__) && !defined(__clang__)
#define BILATERAL_UNROLL _Pragma("GCC unroll 16")
#else
#define BILATERAL_UNROLL
#endif

namespace bilateral {

// Points are located and stored in blocks of this many, so that the compiler can work on vectors of them.
constexpr int block_size = 16;

// Channels are padded to a multiple of this many, and filtered at most `max_channels` at a time.
constexpr int channel_step = 8;
constexpr int max_channels = 32;

// One value for each point of a block.
template <class T>
using Lanes = std::array<T, block_size>;

// Thrown by PermutohedralLattice::filter; `index` is the position in its input.
struct NonFiniteValue {
    std::int64_t index;
};

namespace detail {

// std::vector fills its elements with zeros; for buffers of megabytes that are then written anyway it shows.
template <class T>
struct UninitializedAllocator : std::allocator<T> {
    template <class U>
    struct rebind {
        using other = UninitializedAllocator<U>;
    };
    template <class U>
    void construct(U* place) noexcept {
        ::new (static_cast<void*>(place)) U;
    }
    template <class U, class... Arguments>
    void construct(U* place, Arguments&&... arguments) {
        ::new (static_cast<void*>(place)) U(std::forward<Arguments>(arguments)...);
    }
};

template <class T>
using Buffer = std::vector<T, UninitializedAllocator<T>>;

#if defined(__SIZEOF_INT128__)
__extension__ typedef unsigned __int128 Code128;
#endif

// Numbers the vertices of the lattice: an injective map from vertices to integers.
//
// All coordinates of a vertex are congruent modulo D+1 (a vertex is of colour r if they are congruent to r), so
// the vertex x is given by r and the quotients q_i = (x_i - r) / (D+1), i = 0..D, one of which follows from the others
// as the coordinates sum to 0. Its code is
//
//     r + sum_i (q_i - first_i) * stride_i
//
// where the strides are those of an array of shape (count_D, ..., count_0, D+1), the range first_i ... first_i +
// count_i - 1 of q_i comes from the range of the elevated points, widened so that blur neighbours lie within it too,
// and the quotient of widest range is the one left out (its stride is 0). Steps on the lattice are additions to the
// code.
template <int D, class Code>
struct VertexCoding {
    std::array<std::int32_t, D + 1> first;
    std::array<Code, D + 1> stride;

    // The neighbour in direction j: every coordinate grows by 1, but x_j falls by D. For colour D the remainder
    // becomes 0 and all quotients take the carry.
    [[nodiscard]] Code neighbour(Code code, int j) const {
        const bool carries = code % (D + 1) == D;
        return code + (carries ? carry_ - D : Code(1)) - stride[j];
    }

    VertexCoding(const std::array<std::int32_t, D + 1>& first_quotient, const std::array<std::int32_t, D + 1>& count,
                 int left_out)
        : first(first_quotient) {
        Code next = D + 1;
        for (int i = 0; i <= D; ++i) {
            stride[i] = i == left_out ? Code(0) : next;
            carry_ += stride[i];
            if (i != left_out) next *= static_cast<Code>(count[i]);
        }
    }

 private:
    Code carry_ = 0;
};

// The vertices that occur, numbered 1, 2, ... in the order of their insertion; 0 means "absent".
//
// Open addressing with linear probing over {code, id} pairs and a multiplicative hash. No code is 0 (every range has a
// margin below), so an empty entry, {0, 0}, matches none.
template <class Code>
class VertexTable {
 public:
    struct Entry {
        Code code;
        std::int32_t id;
    };

    VertexTable() : entries_(std::size_t(1) << bits_), codes_(1) {}

    [[nodiscard]] std::int32_t size() const { return static_cast<std::int32_t>(codes_.size()) - 1; }
    [[nodiscard]] Code code(std::int32_t id) const { return codes_[static_cast<std::size_t>(id)]; }

    // The entry where the search for a code begins, which almost always is the one sought.
    [[nodiscard]] const Entry& first_entry(Code code) const { return entries_[slot(code)]; }

    [[nodiscard]] std::int32_t find(Code code) const { return entries_[search(code)].id; }

    std::int32_t find_or_insert(Code code) {
        std::size_t place = search(code);
        if (entries_[place].id == 0) {
            codes_.push_back(code);
            if (codes_.size() * (entries_.size() < large_table ? 8 : 2) > entries_.size()) {
                grow();
                place = search(code);
            }
            entries_[place] = {code, size()};
        }
        return entries_[place].id;
    }

 private:
    [[nodiscard]] std::size_t slot(Code code) const {
        if constexpr (sizeof(Code) == 4) {
            return static_cast<std::uint32_t>(code * 0x9E3779B1u) >> (32 - bits_);
        } else {
            std::uint64_t folded = static_cast<std::uint64_t>(code);
            if constexpr (sizeof(Code) > 8) folded ^= static_cast<std::uint64_t>(code >> 64) * 0xD6E8FEB86659FD93u;
            return static_cast<std::size_t>((folded * 0x9E3779B97F4A7C15u) >> (64 - bits_));
        }
    }

    [[nodiscard]] std::size_t search(Code code) const {
        const std::size_t mask = entries_.size() - 1;
        std::size_t place = slot(code);
        while (entries_[place].id != 0 && entries_[place].code != code) place = (place + 1) & mask;
        return place;
    }

    void grow() {
        bits_ += 1;
        entries_.assign(std::size_t(1) << bits_, Entry{});
        // The last code is the one being inserted, its entry is written by the caller.
        for (std::int32_t id = 1; id < size(); ++id) entries_[search(code(id))] = {code(id), id};
    }

    // Nearly empty, as long as that costs little: then most searches end where they begin.
    static constexpr std::size_t large_table = std::size_t(1) << 17;

    int bits_ = 12;
    std::vector<Entry> entries_;
    std::vector<Code> codes_;
};

}  // namespace detail

// The lattice of a set of N points, and the filter over it.
//
// Invariants after construction: M vertices, numbered 1..M; vertex 0 is the absent neighbour and its values are 0.
// Every point has D+1 vertices in 1..M and weights that sum to 1. Immutable, so that threads may share it.
template <int D>
class PermutohedralLattice {
 public:
    // The largest elevated coordinate: beyond it float32 no longer tells where in its simplex a point lies.
    static constexpr double max_coordinate = 1 << 20;

    // Build the lattice.
    //
    // features: where the points lie, in units of the Gaussian's standard deviation. Has
    //   float lower(int i) const, upper(int i) const              bounds of coordinate i over all points
    //   void load(int64 first, std::array<Lanes<float>, D>&) const    the points first ... first + block_size - 1
    // point_count: N.
    // silent_points: N' >= N. Points N ... N' - 1 carry no values, but their vertices exist and take part in the blur
    //   (the published filter works in groups of four points, the last one filled up with points at the origin).
    // threads: how many may work on it; the result does not depend on it.
    // Throws std::invalid_argument if coordinates exceed max_coordinate or there are too many points.
    template <class Features>
    PermutohedralLattice(const Features& features, std::int64_t point_count, std::int64_t silent_points, int threads);

    // out = A in, or A^T in.
    //
    // in, out: [channels][N] row after row; they may be the same array, but not otherwise overlap.
    // Throws NonFiniteValue at an infinite or not-a-number input; `out` is then unchanged from its channel on.
    void filter(const float* in, float* out, std::int64_t channels, bool transpose) const;

    [[nodiscard]] std::int32_t vertex_count() const { return vertex_count_; }

 private:
    using Neighbours = std::array<std::int32_t, 2>;

    // For a block of points: vertices and weights, [colour][point].
    struct Simplices {
        std::array<Lanes<std::int32_t>, D + 1> vertex;
        std::array<Lanes<float>, D + 1> weight;
    };

    template <class Code, class Features>
    void build(const Features& features, std::int64_t point_count, const detail::VertexCoding<D, Code>& coding,
               int threads);

    template <class Code>
    static void locate(const std::array<Lanes<float>, D>& position, const std::array<float, D>& scale,
                       const detail::VertexCoding<D, Code>& coding, std::array<Lanes<Code>, D + 1>& code,
                       std::array<Lanes<float>, D + 1>& weight);

    template <int Width>
    void filter_channels(const float* in, float* out, int channels, bool transpose) const;
    template <int Width>
    void splat(const float* in, int channels, float* values) const;
    template <int Width>
    void blur(int axis, const float* values, float* blurred) const;
    template <int Width>
    void slice(const float* values, float* out, int channels) const;

    static void reject_non_finite(const float* in, std::int64_t length);

    // Elevation E makes the columns of the basis orthogonal with length sqrt((i+1)(i+2)). Splat, blur and slice
    // together have standard deviation (D+1) sqrt(2/3) in lattice units, which has to become 1.
    [[nodiscard]] static std::array<float, D> elevation_scale() {
        std::array<float, D> scale{};
        const float deviation = static_cast<float>(std::sqrt(2.0 / 3.0) * (D + 1));
        for (int i = 0; i < D; ++i)
            scale[i] = static_cast<float>(1.0 / std::sqrt(static_cast<double>((i + 2) * (i + 1))) * deviation);
        return scale;
    }

    std::int64_t point_count_;
    std::int32_t vertex_count_ = 0;
    detail::Buffer<Simplices> simplices_;
    std::array<std::vector<Neighbours>, D + 1> neighbours_;
};

template <int D>
template <class Features>
PermutohedralLattice<D>::PermutohedralLattice(const Features& features, std::int64_t point_count,
                                              std::int64_t silent_points, int threads)
    : point_count_(point_count) {
    if (silent_points > (INT32_MAX - 1) / (D + 1))
        throw std::invalid_argument("too many points for one lattice: expected at most " +
                                    std::to_string((INT32_MAX - 1) / (D + 1)) + ", found " +
                                    std::to_string(silent_points));

    // The range of each elevated coordinate, by interval arithmetic over the elevation (see locate).
    const std::array<float, D> scale = elevation_scale();
    std::array<double, D + 1> low{}, high{};
    double low_sum = 0, high_sum = 0, reach = 0;
    for (int j = D; j >= 0; --j) {
        const double low_step = j > 0 ? double(features.lower(j - 1)) * scale[j - 1] : 0.0;
        const double high_step = j > 0 ? double(features.upper(j - 1)) * scale[j - 1] : 0.0;
        low[j] = low_sum - j * high_step;
        high[j] = high_sum - j * low_step;
        low_sum += low_step;
        high_sum += high_step;
        reach = std::max({reach, std::abs(low[j]), std::abs(high[j])});
    }
    if (!(reach <= max_coordinate))
        throw std::invalid_argument("lattice coordinates too large: expected at most " +
                                    std::to_string(static_cast<std::int64_t>(max_coordinate)) + ", found " +
                                    std::to_string(reach) + "; use larger sigmas or a smaller range of features");

    // A vertex of the simplex around a point is less than D+1 away from it in each coordinate, so its quotient is at
    // most 2 below and 1 above the point's; its blur neighbours may be 1 further out. The slack is for rounding in
    // float32.
    std::array<std::int32_t, D + 1> first{}, count{};
    const double slack = reach * 1e-6;
    double total = D + 1;
    int widest = 0;
    for (int i = 0; i <= D; ++i) {
        first[i] = static_cast<std::int32_t>(std::floor((low[i] - slack) / (D + 1))) - 3;
        count[i] = static_cast<std::int32_t>(std::floor((high[i] + slack) / (D + 1))) + 2 - first[i] + 1;
        if (count[i] > count[widest]) widest = i;
        total *= count[i];
    }
    total /= count[widest];

    if (total < 0x1p32 * 0.999)
        build(features, silent_points, detail::VertexCoding<D, std::uint32_t>(first, count, widest), threads);
    else if (total < 0x1p64 * 0.999)
        build(features, silent_points, detail::VertexCoding<D, std::uint64_t>(first, count, widest), threads);
    else
#if defined(__SIZEOF_INT128__)
        build(features, silent_points, detail::VertexCoding<D, detail::Code128>(first, count, widest), threads);
    static_assert(D <= 6, "the codes of more dimensions need more than 128 bits");
#else
        throw std::invalid_argument("the lattice has more vertices than a 64-bit code can number; use larger sigmas");
#endif
}

template <int D>
template <class Code, class Features>
void PermutohedralLattice<D>::build(const Features& features, std::int64_t point_count,
                                    const detail::VertexCoding<D, Code>& coding, int threads) {
    const std::int64_t block_count = (point_count + block_size - 1) / block_size;
    simplices_.resize(static_cast<std::size_t>(block_count));

    // Each thread takes a run of blocks and numbers the vertices it meets; below, the numberings become one.
    constexpr std::int64_t blocks_worth_a_thread = 64;
    const std::int64_t part_count =
        std::clamp<std::int64_t>(block_count / blocks_worth_a_thread, 1, std::max(threads, 1));
    std::vector<detail::VertexTable<Code>> tables(static_cast<std::size_t>(part_count));
    const std::array<float, D> scale = elevation_scale();
    const auto first_block = [&](std::int64_t part) { return block_count * part / part_count; };

    parallel_for(part_count, threads, [&](std::int64_t part) {
        auto& table = tables[static_cast<std::size_t>(part)];
        std::array<Lanes<float>, D> position;
        std::array<Lanes<Code>, D + 1> code;
        for (std::int64_t block = first_block(part); block < first_block(part + 1); ++block) {
            Simplices& simplices = simplices_[static_cast<std::size_t>(block)];
            features.load(block * block_size, position);
            locate(position, scale, coding, code, simplices.weight);

            const int points = static_cast<int>(std::min<std::int64_t>(block_size, point_count - block * block_size));
            for (int p = 0; p < points; ++p) {
                // Most vertices are known and stand where the search begins: look at all D+1 before branching.
                std::array<typename detail::VertexTable<Code>::Entry, D + 1> entry;
                bool known = true;
                for (int r = 0; r <= D; ++r) entry[r] = table.first_entry(code[r][p]);
                for (int r = 0; r <= D; ++r) {
                    simplices.vertex[r][p] = entry[r].id;
                    known &= entry[r].code == code[r][p];
                }
                if (!known)
                    for (int r = 0; r <= D; ++r)
                        if (entry[r].code != code[r][p]) simplices.vertex[r][p] = table.find_or_insert(code[r][p]);
            }
        }
    });

    detail::VertexTable<Code>& table = tables.front();
    std::vector<std::vector<std::int32_t>> renumbered(static_cast<std::size_t>(part_count));
    for (std::size_t part = 1; part < tables.size(); ++part) {
        renumbered[part].resize(static_cast<std::size_t>(tables[part].size()) + 1);
        for (std::int32_t id = 1; id <= tables[part].size(); ++id)
            renumbered[part][static_cast<std::size_t>(id)] = table.find_or_insert(tables[part].code(id));
    }
    parallel_for(part_count - 1, threads, [&](std::int64_t i) {
        const std::int64_t part = i + 1;
        const auto& number = renumbered[static_cast<std::size_t>(part)];
        for (std::int64_t block = first_block(part); block < first_block(part + 1); ++block) {
            const int points = static_cast<int>(std::min<std::int64_t>(block_size, point_count - block * block_size));
            for (auto& vertex : simplices_[static_cast<std::size_t>(block)].vertex)
                for (int p = 0; p < points; ++p) vertex[p] = number[static_cast<std::size_t>(vertex[p])];
        }
    });
    vertex_count_ = table.size();

    // If b is a's neighbour in direction j then a is b's in the opposite one: a single search gives both.
    parallel_for(D + 1, point_count < 4 * block_size * blocks_worth_a_thread ? 1 : threads, [&](std::int64_t j) {
        auto& neighbours = neighbours_[static_cast<std::size_t>(j)];
        neighbours.assign(static_cast<std::size_t>(vertex_count_) + 1, Neighbours{0, 0});
        for (std::int32_t id = 1; id <= vertex_count_; ++id) {
            const std::int32_t other = table.find(coding.neighbour(table.code(id), static_cast<int>(j)));
            neighbours[static_cast<std::size_t>(id)][0] = other;
            if (other != 0) neighbours[static_cast<std::size_t>(other)][1] = id;
        }
    });
}

// Find the simplex around each point of a block: the codes of its vertices and the point's barycentric weights.
//
// The loop over the points has no branch and the loops inside it are unrolled, so that the compiler makes vector code
// of it. The arithmetic is float32, one rounding per operation (no fused multiply-add): another last bit can put a
// point into another simplex.
template <int D>
template <class Code>
inline void PermutohedralLattice<D>::locate(const std::array<Lanes<float>, D>& position,
                                            const std::array<float, D>& scale,
                                            const detail::VertexCoding<D, Code>& coding,
                                            std::array<Lanes<Code>, D + 1>& code,
                                            std::array<Lanes<float>, D + 1>& weight) {
    constexpr float side = D + 1;
    constexpr float inverse = 1.0f / side;
    // Adding and taking away 1.5 * 2^23 rounds half to even, as every instruction set's rounding does, and needs none.
    constexpr float round_off = 12582912.0f;

    for (int p = 0; p < block_size; ++p) {
        // Elevate the point into the hyperplane: y = E p.
        float elevated[D + 1];
        float sum = 0;
        BILATERAL_UNROLL
        for (int j = D; j > 0; --j) {
            const float step = position[j - 1][p] * scale[j - 1];
            elevated[j] = sum - static_cast<float>(j) * step;
            sum += step;
        }
        elevated[0] = sum;

        // The closest vertex of colour 0: round each coordinate to a multiple of D+1.
        float quotient[D + 1], residual[D + 1];
        float off_plane = 0;
        BILATERAL_UNROLL
        for (int i = 0; i <= D; ++i) {
            quotient[i] = (elevated[i] * inverse + round_off) - round_off;
            residual[i] = elevated[i] - quotient[i] * side;
            off_plane += quotient[i];
        }

        // The rank of each coordinate in the descending order of the residuals tells the simplex. Of equal ones,
        // the first comes first.
        std::int32_t rank[D + 1];
        BILATERAL_UNROLL
        for (int i = 0; i <= D; ++i) rank[i] = i + static_cast<std::int32_t>(off_plane);
        BILATERAL_UNROLL
        for (int i = 0; i < D; ++i) {
            BILATERAL_UNROLL
            for (int j = i + 1; j <= D; ++j) {
                const std::int32_t behind = residual[i] < residual[j] ? 1 : 0;
                rank[i] += behind;
                rank[j] -= behind;
            }
        }

        // Rounding may have missed the hyperplane, by off_plane (D+1); so many coordinates, those that were rounded
        // furthest, move by D+1, and the ranks turn round.
        BILATERAL_UNROLL
        for (int i = 0; i <= D; ++i) {
            const std::int32_t turn = (rank[i] < 0 ? 1 : 0) - (rank[i] > D ? 1 : 0);
            rank[i] += turn * (D + 1);
            quotient[i] += static_cast<float>(turn);
            residual[i] = (elevated[i] - quotient[i] * side) * inverse;
        }

        // Residuals and strides in the order of the ranks.
        float sorted[D + 1];
        Code stride[D + 1];
        BILATERAL_UNROLL
        for (int r = 0; r <= D; ++r) {
            sorted[r] = 0;
            stride[r] = 0;
            BILATERAL_UNROLL
            for (int i = 0; i <= D; ++i) {
                sorted[r] = rank[i] == r ? residual[i] : sorted[r];
                stride[r] = rank[i] == r ? coding.stride[i] : stride[r];
            }
        }

        // Barycentric coordinates: differences of successive residuals.
        weight[0][p] = sorted[D] + (1.0f - sorted[0]);
        BILATERAL_UNROLL
        for (int r = 1; r <= D; ++r) weight[r][p] = sorted[D - r] - sorted[D - r + 1];

        // The vertex of colour 0, and from vertex to vertex (the canonical simplex): every coordinate grows by 1,
        // but the one of rank D - r falls by D, that is, its quotient by 1.
        Code vertex = 0;
        BILATERAL_UNROLL
        for (int i = 0; i <= D; ++i)
            vertex += static_cast<Code>(static_cast<std::int32_t>(quotient[i]) - coding.first[i]) * coding.stride[i];
        code[0][p] = vertex;
        BILATERAL_UNROLL
        for (int r = 0; r < D; ++r) {
            vertex += 1 - stride[D - r];
            code[r + 1][p] = vertex;
        }
    }
}

template <int D>
void PermutohedralLattice<D>::filter(const float* in, float* out, std::int64_t channels, bool transpose) const {
    // As few passes as max_channels allows, of about equal width.
    const std::int64_t passes = (channels + max_channels - 1) / max_channels;
    for (std::int64_t pass = 0; pass < passes; ++pass) {
        const std::int64_t first = std::min(channels, (channels * pass / passes + channel_step - 1) /
                                                          channel_step * channel_step);
        const std::int64_t last = std::min(channels, (channels * (pass + 1) / passes + channel_step - 1) /
                                                         channel_step * channel_step);
        const int width = static_cast<int>(last - first);
        const std::int64_t offset = first * point_count_;
        try {
            if (width <= 8)
                filter_channels<8>(in + offset, out + offset, width, transpose);
            else if (width <= 16)
                filter_channels<16>(in + offset, out + offset, width, transpose);
            else if (width <= 24)
                filter_channels<24>(in + offset, out + offset, width, transpose);
            else
                filter_channels<32>(in + offset, out + offset, width, transpose);
        } catch (NonFiniteValue& found) {
            found.index += offset;
            throw;
        }
    }
}

// Vertices hold their channels side by side, [vertex][Width], as a vertex is then a few vector registers; the
// transposition from and to [channel][point] is part of splat and slice.
template <int D>
template <int Width>
void PermutohedralLattice<D>::filter_channels(const float* in, float* out, int channels, bool transpose) const {
    const std::size_t size = (static_cast<std::size_t>(vertex_count_) + 1) * Width;
    detail::Buffer<float> values(size), blurred(size);

    std::fill(values.begin(), values.end(), 0.0f);
    splat<Width>(in, channels, values.data());

    // An infinite or not-a-number input shows in its vertices, and of these there are fewer than of inputs.
    std::array<float, channel_step> probe{};
    for (std::size_t i = 0; i < size; i += channel_step)
        for (int c = 0; c < channel_step; ++c) probe[c] += values[i + c] * 0.0f;
    for (const float zero : probe)
        if (!(zero == 0.0f)) reject_non_finite(in, channels * point_count_);

    std::fill_n(blurred.begin(), Width, 0.0f);
    for (int step = 0; step <= D; ++step) {
        blur<Width>(transpose ? D - step : step, values.data(), blurred.data());
        values.swap(blurred);
    }
    slice<Width>(values.data(), out, channels);
}

// Splat: every point, in their order, adds its weighted values to the vertices of its simplex.
template <int D>
template <int Width>
void PermutohedralLattice<D>::splat(const float* in, int channels, float* values) const {
    alignas(64) float point[block_size][Width] = {};
    for (std::int64_t first = 0; first < point_count_; first += block_size) {
        const Simplices& simplices = simplices_[static_cast<std::size_t>(first / block_size)];
        const int points = static_cast<int>(std::min<std::int64_t>(block_size, point_count_ - first));
        for (int c = 0; c < channels; ++c)
            for (int p = 0; p < points; ++p) point[p][c] = in[c * point_count_ + first + p];
        for (int p = 0; p < points; ++p) {
            for (int r = 0; r <= D; ++r) {
                float* vertex = values + static_cast<std::size_t>(simplices.vertex[r][p]) * Width;
                const float weight = simplices.weight[r][p];
                for (int c = 0; c < Width; ++c) vertex[c] += weight * point[p][c];
            }
        }
    }
}

// Blur: add half of both neighbours along one axis. (1/2, 1, 1/2) is twice the paper's kernel; slice's alpha
// accounts for it.
template <int D>
template <int Width>
void PermutohedralLattice<D>::blur(int axis, const float* values, float* blurred) const {
    const std::vector<Neighbours>& neighbours = neighbours_[static_cast<std::size_t>(axis)];
    for (std::size_t id = 1; id < neighbours.size(); ++id) {
        const float* one = values + static_cast<std::size_t>(neighbours[id][0]) * Width;
        const float* other = values + static_cast<std::size_t>(neighbours[id][1]) * Width;
        const float* old = values + id * Width;
        float* result = blurred + id * Width;
        for (int c = 0; c < Width; ++c) result[c] = old[c] + (one[c] + other[c]) * 0.5f;
    }
}

// Slice: every point gathers its vertices' values.
//
// alpha = 1 / (1 + 2^-D) is the published filter's estimate [KK11] of what splat, blur and slice together gain.
template <int D>
template <int Width>
void PermutohedralLattice<D>::slice(const float* values, float* out, int channels) const {
    constexpr float alpha = 1.0f / (1.0f + 1.0f / static_cast<float>(1 << D));
    alignas(64) float point[block_size][Width];
    for (std::int64_t first = 0; first < point_count_; first += block_size) {
        const Simplices& simplices = simplices_[static_cast<std::size_t>(first / block_size)];
        const int points = static_cast<int>(std::min<std::int64_t>(block_size, point_count_ - first));
        for (int p = 0; p < points; ++p) {
            const float* vertex[D + 1];
            float weight[D + 1];
            for (int r = 0; r <= D; ++r) {
                vertex[r] = values + static_cast<std::size_t>(simplices.vertex[r][p]) * Width;
                weight[r] = simplices.weight[r][p] * alpha;
            }
            for (int c = 0; c < Width; ++c) {
                float sum = 0;
                BILATERAL_UNROLL
                for (int r = 0; r <= D; ++r) sum += weight[r] * vertex[r][c];
                point[p][c] = sum;
            }
        }
        for (int c = 0; c < channels; ++c)
            for (int p = 0; p < points; ++p) out[c * point_count_ + first + p] = point[p][c];
    }
}

// Sums of finite values may overflow too; that is no error.
template <int D>
void PermutohedralLattice<D>::reject_non_finite(const float* in, std::int64_t length) {
    for (std::int64_t i = 0; i < length; ++i)
        if (!std::isfinite(in[i])) throw NonFiniteValue{i};
}

}  // namespace bilateral

#undef BILATERAL_UNROLL
