// The permutohedral lattice: Gaussian filtering in D dimensions in time linear in the number of points.
//
// The place to begin is tests/plain_filter.hpp: the same filter written plainly, which this one has to match bit by
// bit. Whatever is here beyond it is there for speed.
//
//   [ABD10]  A. Adams, J. Baek, M. A. Davis: Fast High-Dimensional Filtering Using the Permutohedral Lattice.
//            Computer Graphics Forum 29(2), 2010. Page numbers are those by which the authors' own code
//            (github.com/abadams/permutohedral) refers to it; they count from the paper's first page.
//   [KK11]   P. Krähenbühl, V. Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials.
//            NIPS 2011. Order of operations, tie-breaking and rounding follow the filter published with it, so that the
//            results are the same to the last bit.
//
// A point at position p with values v is elevated into the hyperplane sum(x) = 0 of R^(D+1), which is tiled by
// simplices whose vertices form the lattice A*_D. Filtering is then three sparse linear maps:
//
//   splat   every point adds its values to the D+1 vertices of its simplex, with barycentric weights   (matrix S^T)
//   blur    along each of the D+1 lattice directions with the kernel (1/2, 1, 1/2)                     (B_0, ..., B_D)
//   slice   every point gathers its vertices' values with the same weights                             (matrix S)
//
//   A = alpha * S * B_D * ... * B_0 * S^T,      A^T = alpha * S * B_0 * ... * B_D * S^T
//
// Each B_j is symmetric, but they commute only where no neighbour is missing, so A itself is not quite symmetric.
//
// The code follows the paper's order: elevate, locate, splat, blur, slice. What makes it fast is explained where it
// stands: a vertex is one integer code, and most vertices are found by a single look into a table (vertex_table.hpp);
// points are located a vector at a time (locate); all channels of a vertex lie side by side (channel_block.hpp).

#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bilateralfilter.hpp"
#include "channel_block.hpp"
#include "parallel.hpp"
#include "vectors.hpp"
#include "vertex_table.hpp"

namespace bilateral::BILATERAL_TARGET {

// Thrown by PermutohedralLattice::filter; points to the value in its input.
struct NonFiniteValue {
    const float* value;
};

// Tells the seconds since it was made or last asked.
class Stopwatch {
 public:
    double lap() {
        const auto before = std::exchange(time_, Clock::now());
        return std::chrono::duration<double>(time_ - before).count();
    }

 private:
    using Clock = std::chrono::steady_clock;
    Clock::time_point time_ = Clock::now();
};

// The lattice of a set of N points, and the filter over it.
//
// Invariants after build(): there are M vertices, numbered 1..M; vertex 0 is the absent neighbour, and its values are
// 0. Every point has D+1 vertices in 1..M and weights that sum to 1. Threads may share it then. A lattice can be built
// again, for other points, in the memory that it has.
template <int D>
class PermutohedralLattice {
 public:
    // The largest elevated coordinate: beyond it float32 no longer resolves where in its simplex a point lies.
    static constexpr double max_coordinate = 1 << 20;

    // The most codes that vertices may need, which leaves 64-bit arithmetic some room. The documented settings need 24
    // bits; sigmas of 0.1, in pixels and in grey levels, on 513 x 513 pixels need 61.
    static constexpr int max_code_bits = 62;

    // Builds the lattice.
    //
    // features: where the points lie, in units of the Gaussian's standard deviation. Has
    //   float lower(int i) const, upper(int i) const              bounds of coordinate i over all points and 0
    //   void load(int64 first, Floats (&position)[D]) const       the points first ... first + lanes - 1
    // point_count: N.
    // silent_points: N' >= N. Points N ... N' - 1 carry no values, but their vertices exist and take part in the blur
    //   (the published filter works in groups of four points and fills up the last one with points at the origin).
    // threads: how many may work on it; the result does not depend on it.
    // workspace: memory to work in; receives the seconds.
    // Throws std::invalid_argument if a coordinate exceeds max_coordinate, if the vertices need more than max_code_bits
    //   or if there are too many points.
    struct Workspace;
    template <class Features>
    void build(const Features& features, std::int64_t point_count, std::int64_t silent_points, int threads,
               Workspace& workspace);

    // out = A in, A^T in or (A + A^T) in / 2.
    //
    // in, out: [channels][N] row after row; they may be the same array, but not otherwise overlap.
    // Throws NonFiniteValue at an infinite or not-a-number input; `out` is then unchanged from its channel on.
    void filter(const float* in, float* out, std::int64_t channels, Operator applied, Workspace& workspace) const;

    // The two vertices beside one, in a direction of the lattice and in the opposite one.
    using Neighbours = std::array<std::int32_t, 2>;

    // Scales what is sliced, see slice().
    static constexpr float alpha = 1.0f / (1.0f + 1.0f / static_cast<float>(1 << D));

    [[nodiscard]] std::int64_t point_count() const { return point_count_; }
    [[nodiscard]] std::int32_t vertex_count() const { return vertex_count_; }

    // The vertex of colour r of a point's simplex, and its weight.
    [[nodiscard]] std::int32_t vertex(std::int64_t point, int r) const {
        return simplices_[static_cast<std::size_t>(point / block_size)].vertex[r * block_size + point % block_size];
    }
    [[nodiscard]] float weight(std::int64_t point, int r) const {
        return simplices_[static_cast<std::size_t>(point / block_size)].weight[r * block_size + point % block_size];
    }

    // By vertex; that of vertex 0 is {0, 0}.
    [[nodiscard]] const Buffer<Neighbours>& neighbours(int axis) const {
        return neighbours_[static_cast<std::size_t>(axis)];
    }

 private:
    template <class Code>
    using Tables = std::vector<VertexTable<Code>>;

    // The simplices of a block of points: vertices and weights, [colour][point].
    struct alignas(64) Simplices {
        std::int32_t vertex[(D + 1) * block_size];
        float weight[(D + 1) * block_size];
    };

    // Elevate.
    static std::array<float, D> elevation_scale();
    template <class Features>
    QuotientRange<D> quotient_range(const Features& features) const;
    void elevate(const Floats (&position)[D], Floats (&elevated)[D + 1]) const;

    // Locate.
    static void find_simplex(const Floats (&elevated)[D + 1], Floats (&quotient)[D + 1], Floats (&residual)[D + 1],
                             Ints (&rank)[D + 1]);
    static void store_weights(const Floats (&residual)[D + 1], const Ints (&rank)[D + 1], float* weight);
    template <class Code>
    static void store_codes(const Floats (&quotient)[D + 1], const Ints (&rank)[D + 1],
                            const VertexCoding<D, Code>& coding, Code* code);
    template <class Code, class Features>
    void build_coded(const Features& features, std::int64_t point_count, const VertexCoding<D, Code>& coding,
                     int threads, Tables<Code>& tables);
    template <class Code, class Features>
    void locate_block(const Features& features, std::int64_t block, int points, const VertexCoding<D, Code>& coding,
                      VertexTable<Code>& table);
    template <class Code, class FirstBlock>
    void unite(Tables<Code>& tables, const FirstBlock& first_block, int threads);
    template <class Code>
    void link_neighbours(int axis, const VertexTable<Code>& table, const VertexCoding<D, Code>& coding);

    // Filter.
    template <int Width>
    void filter_channels(const float* in, float* out, int channels, Operator applied, Workspace& workspace) const;
    template <int Width>
    void splat(const float* in, int channels, float* values) const;
    template <int Width>
    void blur(int axis, const float* values, float* blurred) const;
    template <int Width>
    void blur_all(bool transpose, Buffer<float>& values, Buffer<float>& blurred) const;
    template <int Width>
    void slice(const float* values, const float* others, float* out, int channels) const;
    static void reject_non_finite(const float* in, std::int64_t length);

    [[nodiscard]] static int points_of_block(std::int64_t block, std::int64_t point_count) {
        return static_cast<int>(std::min<std::int64_t>(block_size, point_count - block * block_size));
    }

    std::int64_t point_count_ = 0;
    std::int32_t vertex_count_ = 0;
    std::array<float, D> scale_ = elevation_scale();
    Buffer<Simplices> simplices_;
    std::array<Buffer<Neighbours>, D + 1> neighbours_;
};

// Memory that build() and filter() work in, for a thread to keep from call to call, and the seconds it spent there.
template <int D>
struct PermutohedralLattice<D>::Workspace {
    Buffer<float> values, blurred, others;
    // 64-bit codes alone would do, but 32 bits are enough for the documented settings, and without them the whole
    // filter would be 5 to 19 % slower.
    Tables<std::uint32_t> tables_of_32_bits;
    Tables<std::uint64_t> tables_of_64_bits;
    PhaseSeconds seconds;
};

// Elevate ------------------------------------------------------------------------------------------------------------

// The factors by which each coordinate is scaled before elevation: y = E (scale * p).
//
// Column i of E has length sqrt((i+1)(i+2)), and the columns are orthogonal [ABD10, pp. 4-5], so dividing by the
// lengths makes E a rotation. The filter then has the same width in every direction, a standard deviation of
// (d+1) sqrt(2/3) where d = D [ABD10, pp. 6 and 10]. Multiplying positions by that makes it 1 in the caller's units.
//
// To derive the width, take each step as moving a value at random; the moves are independent, so their variances add
// up. (Variances here are totals over the d dimensions of the hyperplane.)
//
//   - Blurring in direction j moves a value by -u, 0 or u with probability 1/4, 1/2, 1/4. All coordinates of u are 1
//     but the j-th, which is -d, so |u|^2 = d + d^2 and the variance is |u|^2 / 2. Together the d+1 directions have
//     d (d+1)^2 / 2.
//   - Splatting moves a value from x to vertex v_r of the simplex with probability b_r, the barycentric coordinate. As
//     sum_r b_r v_r = x, the variance is sum_r b_r |v_r|^2 - |x|^2. Put the origin at the simplex's centroid and let x
//     be uniform in the simplex. Then b_r averages 1/(d+1), and |x|^2 averages sum_r |v_r|^2 / ((d+1)(d+2)), which
//     leaves sum_r |v_r|^2 / (d+2).
//     Vertices k colours apart differ by k in d+1-k coordinates and by k-(d+1) in k, so their squared distance is
//     (d+1) k (d+1-k). There are d+1-k such pairs, and the squared distances of all pairs sum to
//     (d+1)^3 ((d+1)^2 - 1) / 12. About a centroid that sum is also (d+1) sum_r |v_r|^2. Hence splatting has a variance
//     of d (d+1)^2 / 12.
//   - Slicing is the transpose of splatting and has the same variance.
//
// The total is d (d+1)^2 (1/12 + 1/2 + 1/12) = d * (d+1)^2 * 2/3, and (d+1)^2 * 2/3 in each dimension.
template <int D>
std::array<float, D> PermutohedralLattice<D>::elevation_scale() {
    std::array<float, D> scale{};
    const float deviation = static_cast<float>(std::sqrt(2.0 / 3.0) * (D + 1));
    for (int i = 0; i < D; ++i)
        scale[i] = static_cast<float>(1.0 / std::sqrt(static_cast<double>((i + 2) * (i + 1))) * deviation);
    return scale;
}

// Elevate points into the hyperplane [ABD10, pp. 4-5]: coordinate j becomes sum_{i>=j} z_i - j z_{j-1}, where z is the
// scaled position.
template <int D>
BILATERAL_INLINE void PermutohedralLattice<D>::elevate(const Floats (&position)[D], Floats (&elevated)[D + 1]) const {
    Floats sum{};
    BILATERAL_UNROLL
    for (int j = D; j > 0; --j) {
        const Floats step = position[j - 1] * scale_[j - 1];
        elevated[j] = sum - static_cast<float>(j) * step;
        sum += step;
    }
    elevated[0] = sum;
}

// The range of the vertices around all points, by interval arithmetic over elevate().
template <int D>
template <class Features>
QuotientRange<D> PermutohedralLattice<D>::quotient_range(const Features& features) const {
    std::array<double, D + 1> low{}, high{};
    double low_sum = 0, high_sum = 0, reach = 0;
    for (int j = D; j >= 0; --j) {
        const double low_step = j > 0 ? double(features.lower(j - 1)) * scale_[j - 1] : 0.0;
        const double high_step = j > 0 ? double(features.upper(j - 1)) * scale_[j - 1] : 0.0;
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
    return {low, high};
}

// Locate -------------------------------------------------------------------------------------------------------------

// Find the simplex around each point [ABD10, pp. 3-4]: its vertex of colour 0 is (D+1) quotient; residual, in units of
// D+1, leads from there to the point; rank is each coordinate's place in the descending order of the residuals.
//
// No step branches. The arithmetic is float32, one rounding per operation (no fused multiply-add): another last bit can
// put a point into another simplex.
template <int D>
BILATERAL_INLINE void PermutohedralLattice<D>::find_simplex(const Floats (&elevated)[D + 1],
                                                            Floats (&quotient)[D + 1], Floats (&residual)[D + 1],
                                                            Ints (&rank)[D + 1]) {
    constexpr float side = D + 1;
    constexpr float inverse = 1.0f / side;

    // The closest point of colour 0: round each coordinate to a multiple of D+1.
    Floats off_plane{};
    BILATERAL_UNROLL
    for (int i = 0; i <= D; ++i) {
        quotient[i] = (elevated[i] * inverse + round_off) - round_off;
        residual[i] = elevated[i] - quotient[i] * side;
        off_plane += quotient[i];
    }

    // The ranks. Of equal residuals, the first comes first. (True is -1 in vectors.)
    BILATERAL_UNROLL
    for (int i = 0; i <= D; ++i) rank[i] = i + __builtin_convertvector(off_plane, Ints);
    BILATERAL_UNROLL
    for (int i = 0; i < D; ++i) {
        BILATERAL_UNROLL
        for (int j = i + 1; j <= D; ++j) {
            const Ints behind = residual[i] < residual[j];
            rank[i] -= behind;
            rank[j] += behind;
        }
    }

    // Rounding may have left the hyperplane, by off_plane (D+1). As many coordinates, those that were rounded furthest,
    // move back by D+1, and the ranks turn round. The residuals were exact, so correcting them rounds as recomputing
    // them would.
    BILATERAL_UNROLL
    for (int i = 0; i <= D; ++i) {
        const Ints turn = (rank[i] > D) - (rank[i] < 0);
        rank[i] += turn * (D + 1);
        quotient[i] += __builtin_convertvector(turn, Floats);
        residual[i] = (residual[i] - __builtin_convertvector(turn, Floats) * side) * inverse;
    }
}

// The barycentric coordinates of each point, for the vertices of colours 0..D: differences of successive residuals in
// the order of the ranks [ABD10, p. 10].
template <int D>
BILATERAL_INLINE void PermutohedralLattice<D>::store_weights(const Floats (&residual)[D + 1], const Ints (&rank)[D + 1],
                                                             float* weight) {
    Floats sorted[D + 1];
    BILATERAL_UNROLL
    for (int r = 0; r <= D; ++r) {
        sorted[r] = residual[D];
        BILATERAL_UNROLL
        for (int i = 0; i < D; ++i) sorted[r] = rank[i] == r ? residual[i] : sorted[r];
    }
    store(weight, sorted[D] + (1.0f - sorted[0]));
    BILATERAL_UNROLL
    for (int r = 1; r <= D; ++r) store(weight + r * block_size, sorted[D - r] - sorted[D - r + 1]);
}

// The codes of each simplex's vertices, by colour. From one colour to the next every coordinate grows by 1, but that of
// the last rank not yet used falls by D, that is, its quotient by 1: the canonical simplex [ABD10, p. 4].
//
// Codes may be wider than a lane, so how to use vectors here is left to the compiler.
template <int D>
template <class Code>
BILATERAL_INLINE void PermutohedralLattice<D>::store_codes(const Floats (&quotient)[D + 1], const Ints (&rank)[D + 1],
                                                           const VertexCoding<D, Code>& coding, Code* code) {
    std::int32_t rank_of[D + 1][lanes], quotient_of[D + 1][lanes];
    BILATERAL_UNROLL
    for (int i = 0; i <= D; ++i) {
        store(rank_of[i], rank[i]);
        store(quotient_of[i], __builtin_convertvector(quotient[i], Ints) - coding.first[i]);
    }
    for (int p = 0; p < lanes; ++p) {
        Code vertex = 0;
        BILATERAL_UNROLL
        for (int i = 0; i <= D; ++i) vertex += static_cast<Code>(quotient_of[i][p]) * coding.stride[i];
        code[p] = vertex;
        BILATERAL_UNROLL
        for (int r = 1; r <= D; ++r) {
            vertex += 1;
            BILATERAL_UNROLL
            for (int i = 0; i <= D; ++i) vertex -= rank_of[i][p] == D - r + 1 ? coding.stride[i] : 0;
            code[r * block_size + p] = vertex;
        }
    }
}

template <int D>
template <class Features>
void PermutohedralLattice<D>::build(const Features& features, std::int64_t point_count, std::int64_t silent_points,
                                    int threads, Workspace& workspace) {
    Stopwatch watch;
    constexpr std::int64_t max_points = (INT32_MAX - 1) / (D + 1);
    if (silent_points > max_points)
        throw std::invalid_argument("too many points for one lattice: expected at most " + std::to_string(max_points) +
                                    ", found " + std::to_string(silent_points));
    const QuotientRange<D> range = quotient_range(features);
    const double bits = std::log2(range.codes());
    if (!(bits <= max_code_bits))
        throw std::invalid_argument("lattice too fine: expected vertices that " + std::to_string(max_code_bits) +
                                    " bits can number, found that they need " +
                                    std::to_string(static_cast<int>(std::ceil(bits))) +
                                    "; use larger sigmas or a smaller range of features");
    point_count_ = point_count;
    if (range.codes() < 0x1p32)
        build_coded(features, silent_points, VertexCoding<D, std::uint32_t>(range), threads,
                    workspace.tables_of_32_bits);
    else
        build_coded(features, silent_points, VertexCoding<D, std::uint64_t>(range), threads,
                    workspace.tables_of_64_bits);
    workspace.seconds.build += watch.lap();
}

template <int D>
template <class Code, class Features>
void PermutohedralLattice<D>::build_coded(const Features& features, std::int64_t point_count,
                                          const VertexCoding<D, Code>& coding, int threads, Tables<Code>& tables) {
    const std::int64_t block_count = (point_count + block_size - 1) / block_size;
    simplices_.resize(static_cast<std::size_t>(block_count));

    // Each thread takes a run of blocks and numbers the vertices it meets; then the numberings become one.
    constexpr std::int64_t blocks_worth_a_thread = 64;
    const std::int64_t part_count =
        std::clamp<std::int64_t>(block_count / blocks_worth_a_thread, 1, std::max(threads, 1));
    tables.resize(static_cast<std::size_t>(part_count));
    const auto first_block = [&](std::int64_t part) { return block_count * part / part_count; };
    parallel_for(part_count, threads, [&](std::int64_t part, int) {
        VertexTable<Code>& table = tables[static_cast<std::size_t>(part)];
        table.clear();
        for (std::int64_t block = first_block(part); block < first_block(part + 1); ++block)
            locate_block(features, block, points_of_block(block, point_count), coding, table);
    });
    unite(tables, first_block, threads);

    vertex_count_ = tables.front().size();
    const bool large = block_count > 4 * blocks_worth_a_thread;
    parallel_for(D + 1, large ? threads : 1, [&](std::int64_t axis, int) {
        link_neighbours(static_cast<int>(axis), tables.front(), coding);
    });
}

// Find the vertices and weights of a block of points.
template <int D>
template <class Code, class Features>
BILATERAL_INLINE void PermutohedralLattice<D>::locate_block(const Features& features, std::int64_t block, int points,
                                                            const VertexCoding<D, Code>& coding,
                                                            VertexTable<Code>& table) {
    Simplices& simplices = simplices_[static_cast<std::size_t>(block)];
    Code code[(D + 1) * block_size];
    for (int offset = 0; offset < block_size; offset += lanes) {
        Floats position[D], elevated[D + 1], quotient[D + 1], residual[D + 1];
        Ints rank[D + 1];
        features.load(block * block_size + offset, position);
        elevate(position, elevated);
        find_simplex(elevated, quotient, residual, rank);
        store_weights(residual, rank, simplices.weight + offset);
        store_codes(quotient, rank, coding, code + offset);
    }
    // What lies beyond the last point must not add vertices, so it gets those of the block's first point.
    for (int p = points; p < block_size; ++p)
        for (int r = 0; r <= D; ++r) code[r * block_size + p] = code[r * block_size];
    table.find_or_insert(code, simplices.vertex);
}

// Make the first table that of all vertices, and number the vertices of all blocks by it.
template <int D>
template <class Code, class FirstBlock>
void PermutohedralLattice<D>::unite(Tables<Code>& tables, const FirstBlock& first_block, int threads) {
    std::vector<std::vector<std::int32_t>> number(tables.size());
    for (std::size_t part = 1; part < tables.size(); ++part) {
        number[part].resize(static_cast<std::size_t>(tables[part].size()) + 1);
        for (std::int32_t id = 1; id <= tables[part].size(); ++id)
            number[part][static_cast<std::size_t>(id)] = tables.front().find_or_insert(tables[part].code(id));
    }
    parallel_for(static_cast<std::int64_t>(tables.size()) - 1, threads, [&](std::int64_t i, int) {
        const std::int64_t part = i + 1;
        for (std::int64_t block = first_block(part); block < first_block(part + 1); ++block)
            for (std::int32_t& vertex : simplices_[static_cast<std::size_t>(block)].vertex)
                vertex = number[static_cast<std::size_t>(part)][static_cast<std::size_t>(vertex)];
    });
}

// Find every vertex's neighbours along one axis. If b is a's neighbour in the axis's direction, then a is b's in the
// opposite one, so a single search gives both.
template <int D>
template <class Code>
void PermutohedralLattice<D>::link_neighbours(int axis, const VertexTable<Code>& table,
                                              const VertexCoding<D, Code>& coding) {
    Buffer<Neighbours>& neighbours = neighbours_[static_cast<std::size_t>(axis)];
    neighbours.assign(static_cast<std::size_t>(table.size()) + 1, Neighbours{0, 0});
    constexpr int many = 64;
    Code code[many];
    std::int32_t other[many];
    for (std::int32_t first = 1; first <= table.size(); first += many) {
        const std::int32_t count = std::min(many, table.size() - first + 1);
        for (std::int32_t i = 0; i < many; ++i)
            code[i] = coding.neighbour(table.code(first + std::min(i, count - 1)), axis);
        table.find(code, other);
        for (std::int32_t i = 0; i < count; ++i) {
            neighbours[static_cast<std::size_t>(first + i)][0] = other[i];
            neighbours[static_cast<std::size_t>(other[i])][1] = first + i;
        }
    }
    neighbours[0] = {0, 0};
}

// Filter -------------------------------------------------------------------------------------------------------------

template <int D>
void PermutohedralLattice<D>::filter(const float* in, float* out, std::int64_t channels, Operator applied,
                                     Workspace& workspace) const {
    // As few passes as max_channels allows, of about equal width.
    const std::int64_t passes = (channels + max_channels - 1) / max_channels;
    const auto first_channel = [&](std::int64_t pass) {
        return std::min(channels, (channels * pass / passes + channel_step - 1) / channel_step * channel_step);
    };
    for (std::int64_t pass = 0; pass < passes; ++pass) {
        const std::int64_t offset = first_channel(pass) * point_count_;
        const int width = static_cast<int>(first_channel(pass + 1) - first_channel(pass));
        filter_channels<channel_step>(in + offset, out + offset, width, applied, workspace);
    }
}

// Filter at most max_channels channels, with Width, the number of channels that a vertex holds, just large enough. The
// compiler knows Width, which turns the loops over channels into a few vector instructions.
template <int D>
template <int Width>
void PermutohedralLattice<D>::filter_channels(const float* in, float* out, int channels, Operator applied,
                                              Workspace& workspace) const {
    if constexpr (Width < max_channels)
        if (channels > Width) return filter_channels<Width + channel_step>(in, out, channels, applied, workspace);

    const std::size_t size = (static_cast<std::size_t>(vertex_count_) + 1) * Width;
    Buffer<float>&values = workspace.values, &blurred = workspace.blurred, &others = workspace.others;
    PhaseSeconds& seconds = workspace.seconds;
    values.resize(size);
    blurred.resize(size);
    Stopwatch watch;

    std::fill(values.begin(), values.end(), 0.0f);
    splat<Width>(in, channels, values.data());

    // An infinite or not-a-number input shows in its vertices, and of these there are fewer than of inputs.
    Vector<float, channel_step> probe{};
    for (std::size_t i = 0; i < size; i += channel_step)
        probe += load<Vector<float, channel_step>>(&values[i]) * 0.0f;
    for (int c = 0; c < channel_step; ++c)
        if (!(probe[c] == 0.0f)) reject_non_finite(in, channels * point_count_);
    seconds.splat += watch.lap();

    const bool symmetric = applied == Operator::symmetric;
    if (symmetric) {
        others = values;
        blur_all<Width>(true, others, blurred);
    }
    blur_all<Width>(applied == Operator::transposed, values, blurred);
    seconds.blur += watch.lap();
    slice<Width>(values.data(), symmetric ? others.data() : nullptr, out, channels);
    seconds.slice += watch.lap();
}

// Splat, the first stage of [ABD10]: every point, in their order, adds its weighted values to the vertices of its
// simplex.
template <int D>
template <int Width>
void PermutohedralLattice<D>::splat(const float* in, int channels, float* values) const {
    ChannelBlock<Width> block;
    for (std::int64_t first = 0; first < point_count_; first += block_size) {
        const Simplices& simplices = simplices_[static_cast<std::size_t>(first / block_size)];
        const int points = points_of_block(first / block_size, point_count_);
        block.gather(in + first, channels, point_count_, points);
        for (int p = 0; p < points; ++p) {
            BILATERAL_UNROLL
            for (int r = 0; r <= D; ++r) {
                float* vertex = values + static_cast<std::size_t>(simplices.vertex[r * block_size + p]) * Width;
                const float weight = simplices.weight[r * block_size + p];
                for_channel_vectors<Width>([&](int c, auto zero) {
                    using V = decltype(zero);
                    store(vertex + c, load<V>(vertex + c) + weight * load<V>(&block.value[p][c]));
                });
            }
        }
    }
}

// Blur, the second stage of [ABD10]: add half of both neighbours along one axis. (1/2, 1, 1/2) is twice the paper's
// kernel, (1/4, 1/2, 1/4); alpha, in slice(), accounts for it.
template <int D>
template <int Width>
void PermutohedralLattice<D>::blur(int axis, const float* values, float* blurred) const {
    const Buffer<Neighbours>& neighbours = neighbours_[static_cast<std::size_t>(axis)];
    for (std::size_t id = 1; id < neighbours.size(); ++id) {
        const float* one = values + static_cast<std::size_t>(neighbours[id][0]) * Width;
        const float* other = values + static_cast<std::size_t>(neighbours[id][1]) * Width;
        const float* old = values + id * Width;
        // A fine lattice does not fit into the inner caches, and its neighbours lie far apart: then this saves a third.
        const Neighbours& soon = neighbours[std::min(id + 12, neighbours.size() - 1)];
        for (const std::int32_t neighbour : soon)
            __builtin_prefetch(values + static_cast<std::size_t>(neighbour) * Width);
        float* result = blurred + id * Width;
        for_channel_vectors<Width>([&](int c, auto zero) {
            using V = decltype(zero);
            store(result + c, load<V>(old + c) + (load<V>(one + c) + load<V>(other + c)) * 0.5f);
        });
    }
}

template <int D>
template <int Width>
void PermutohedralLattice<D>::blur_all(bool transpose, Buffer<float>& values, Buffer<float>& blurred) const {
    std::fill_n(blurred.begin(), Width, 0.0f);
    for (int step = 0; step <= D; ++step) {
        blur<Width>(transpose ? D - step : step, values.data(), blurred.data());
        values.swap(blurred);
    }
}

// Slice, the third stage [ABD10, p. 6]: every point gathers its vertices' values; from `others` too, unless they are
// null, for the mean of both.
//
// alpha = 1 / (1 + 2^-D) comes with the published filter [KK11]. It scales the blur so that its peak is 1, as the
// Gaussian's is. Where no neighbour is missing, what the blur returns to a vertex of its own value is the sum over all
// ways to take a step of -1, 0 or 1 in each of the D+1 directions, with weights 1/2, 1, 1/2, and end where one started.
// The directions sum to 0, and that is the only relation between them. So there are three ways: no step at all, of
// weight 1, and one step forwards in every direction or one backwards, of weight 2^-(D+1) each. The peak is 1 + 2^-D.
template <int D>
template <int Width>
void PermutohedralLattice<D>::slice(const float* values, const float* others, float* out, int channels) const {
    ChannelBlock<Width> block;
    for (std::int64_t first = 0; first < point_count_; first += block_size) {
        const Simplices& simplices = simplices_[static_cast<std::size_t>(first / block_size)];
        const int points = points_of_block(first / block_size, point_count_);
        for (int p = 0; p < points; ++p) {
            std::size_t vertex[D + 1];
            float weight[D + 1];
            BILATERAL_UNROLL
            for (int r = 0; r <= D; ++r) {
                vertex[r] = static_cast<std::size_t>(simplices.vertex[r * block_size + p]) * Width;
                weight[r] = simplices.weight[r * block_size + p] * alpha;
            }
            const auto gather = [&](const float* from, auto sum) {
                BILATERAL_UNROLL
                for (int r = 0; r <= D; ++r) sum += weight[r] * load<decltype(sum)>(from + vertex[r]);
                return sum;
            };
            for_channel_vectors<Width>([&](int c, auto zero) {
                auto sum = gather(values + c, zero);
                if (others != nullptr) sum = (sum + gather(others + c, zero)) * 0.5f;
                store(&block.value[p][c], sum);
            });
        }
        block.scatter(out + first, channels, point_count_, points);
    }
}

// Sums of finite values may overflow too; that is no error.
template <int D>
void PermutohedralLattice<D>::reject_non_finite(const float* in, std::int64_t length) {
    for (std::int64_t i = 0; i < length; ++i)
        if (!std::isfinite(in[i])) throw NonFiniteValue{in + i};
}

}  // namespace bilateral::BILATERAL_TARGET
