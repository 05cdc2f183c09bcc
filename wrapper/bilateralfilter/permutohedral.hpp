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
// What makes it fast, explained where it stands: a vertex is one integer code (VertexCoding), points are located a
// vector at a time (PermutohedralLattice::locate), most vertices are found by one look into a table (VertexTable), and
// all channels of a vertex lie side by side (PermutohedralLattice::filter).

#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bilateralfilter.hpp"
#include "parallel.hpp"
#include "vectors.hpp"

namespace bilateral::BILATERAL_TARGET {

// Points are located and stored in blocks of this many, a whole number of vectors on every instruction set.
constexpr int block_size = 16;

// Channels are padded to a multiple of this many, and filtered at most `max_channels` at a time.
constexpr int channel_step = 4;
constexpr int max_channels = 16;

// Thrown by PermutohedralLattice::filter; `index` is the position in its input.
struct NonFiniteValue {
    std::int64_t index;
};

// Tells the seconds since it was made or asked last.
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

namespace detail {

// Aligned to cache lines, and not filled with zeros as std::vector does by itself: for buffers of megabytes that are
// then written anyway it shows.
template <class T>
struct BufferAllocator : std::allocator<T> {
    template <class U>
    struct rebind {
        using other = BufferAllocator<U>;
    };
    static constexpr std::align_val_t alignment{64};

    T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), alignment)); }
    void deallocate(T* place, std::size_t) { ::operator delete(place, alignment); }

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
using Buffer = std::vector<T, BufferAllocator<T>>;

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

    // Keeps its memory.
    void clear() {
        std::fill(entries_.begin(), entries_.end(), Entry{});
        codes_.resize(1);
    }

    [[nodiscard]] std::int32_t size() const { return static_cast<std::int32_t>(codes_.size()) - 1; }
    [[nodiscard]] Code code(std::int32_t id) const { return codes_[static_cast<std::size_t>(id)]; }

    // The ids of many codes at once.
    template <int count>
    void find(const Code (&codes)[count], std::int32_t (&ids)[count]) const {
        std::uint8_t unsettled[count];
        const int unsettled_count = look<true>(codes, ids, unsettled);
        for (int k = 0; k < unsettled_count; ++k) ids[unsettled[k]] = entries_[search(codes[unsettled[k]])].id;
    }

    // The same, giving ids to those that have none.
    template <int count>
    void find_or_insert(const Code (&codes)[count], std::int32_t (&ids)[count]) {
        std::uint8_t unsettled[count];
        const int unsettled_count = look<false>(codes, ids, unsettled);
        for (int k = 0; k < unsettled_count; ++k) ids[unsettled[k]] = find_or_insert(codes[unsettled[k]]);
    }

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
    // Look where the searches for the codes begin, and almost always end. Where one does not, put its number into
    // `unsettled`; return how many there are. To find an empty entry settles a search, too, if absent_settles.
    //
    // Nothing here branches, and all addresses are known before the first is needed: so the processor has many entries
    // on their way at a time, and mispredicts nothing.
    template <bool absent_settles, int count>
    int look(const Code (&codes)[count], std::int32_t (&ids)[count], std::uint8_t (&unsettled)[count]) const {
        static_assert(count <= 256, "numbers have to fit unsettled");
        std::uint32_t slots[count];
        for (int i = 0; i < count; ++i) slots[i] = static_cast<std::uint32_t>(slot(codes[i]));
        const Entry* entries = entries_.data();
        std::size_t unsettled_count = 0;
        BILATERAL_UNROLL
        for (int i = 0; i < count; ++i) {
            const Entry& entry = entries[slots[i]];
            const std::int32_t found = -static_cast<std::int32_t>(entry.code == codes[i]);  // a mask: all bits or none
            ids[i] = entry.id & found;
            unsettled[unsettled_count] = static_cast<std::uint8_t>(i);
            unsettled_count += absent_settles ? (entry.id & ~found) != 0 : found == 0;
        }
        return static_cast<int>(unsettled_count);
    }

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
    Buffer<Entry> entries_;
    std::vector<Code> codes_;
};

// Call body(c, zero) for the channels c, c + 1, ... of each vector of a vertex's Width channels; `zero` is a vector of
// that many zeros.
template <int Width, class Body>
inline void for_channel_vectors(const Body& body) {
    constexpr int n = lanes < 8 ? lanes : 8;
    BILATERAL_UNROLL
    for (int c = 0; c + n <= Width; c += n) body(c, Vector<float, n>{});
    if constexpr (Width % n != 0) body(Width - Width % n, Vector<float, Width % n>{});
}

}  // namespace detail

// The lattice of a set of N points, and the filter over it.
//
// Invariants after build(): M vertices, numbered 1..M; vertex 0 is the absent neighbour and its values are 0. Every
// point has D+1 vertices in 1..M and weights that sum to 1. Threads may share it then. A lattice can be built again,
// for other points, in the memory that it has.
template <int D>
class PermutohedralLattice {
 public:
    // The largest elevated coordinate: beyond it float32 no longer tells where in its simplex a point lies.
    static constexpr double max_coordinate = 1 << 20;

    // Build the lattice.
    //
    // features: where the points lie, in units of the Gaussian's standard deviation. Has
    //   float lower(int i) const, upper(int i) const              bounds of coordinate i over all points
    //   void load(int64 first, Floats (&position)[D]) const       the points first ... first + lanes - 1
    // point_count: N.
    // silent_points: N' >= N. Points N ... N' - 1 carry no values, but their vertices exist and take part in the blur
    //   (the published filter works in groups of four points, the last one filled up with points at the origin).
    // threads: how many may work on it; the result does not depend on it.
    // Throws std::invalid_argument if coordinates exceed max_coordinate or there are too many points.
    template <class Features>
    void build(const Features& features, std::int64_t point_count, std::int64_t silent_points, int threads);

    // Memory that filter() works in, for a thread to keep from call to call, and the seconds it spent.
    struct Workspace {
        detail::Buffer<float> values, blurred;
        PhaseSeconds seconds;
    };

    // out = A in, or A^T in.
    //
    // in, out: [channels][N] row after row; they may be the same array, but not otherwise overlap.
    // Throws NonFiniteValue at an infinite or not-a-number input; `out` is then unchanged from its channel on.
    void filter(const float* in, float* out, std::int64_t channels, bool transpose, Workspace& workspace) const;

    [[nodiscard]] std::int32_t vertex_count() const { return vertex_count_; }

 private:
    using Neighbours = std::array<std::int32_t, 2>;

    // For a block of points: vertices and weights, [colour][point].
    struct alignas(64) Simplices {
        std::int32_t vertex[(D + 1) * block_size];
        float weight[(D + 1) * block_size];
    };

    // A block of points with its channels side by side, [point][channel].
    template <int Width>
    struct alignas(64) Block {
        float value[block_size][Width];

        void gather(const float* in, int channels, std::int64_t row_length, int points);
        void scatter(float* out, int channels, std::int64_t row_length, int points) const;
    };

    template <class Code, class Features>
    void build_coded(const Features& features, std::int64_t point_count, const detail::VertexCoding<D, Code>& coding,
                     int threads);

    template <class Code>
    void locate(const Floats (&position)[D], const detail::VertexCoding<D, Code>& coding,
                       Code* code, float* weight) const;

    template <int Width>
    void filter_channels(const float* in, float* out, int channels, bool transpose, Workspace& workspace) const;
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

    [[nodiscard]] static int points_of_block(std::int64_t block, std::int64_t point_count) {
        return static_cast<int>(std::min<std::int64_t>(block_size, point_count - block * block_size));
    }

    template <class Code>
    using Tables = std::vector<detail::VertexTable<Code>>;

    std::int64_t point_count_ = 0;
    std::int32_t vertex_count_ = 0;
    std::array<float, D> scale_ = elevation_scale();
    detail::Buffer<Simplices> simplices_;
    std::array<detail::Buffer<Neighbours>, D + 1> neighbours_;
#if defined(__SIZEOF_INT128__)
    std::tuple<Tables<std::uint32_t>, Tables<std::uint64_t>, Tables<detail::Code128>> tables_;
#else
    std::tuple<Tables<std::uint32_t>, Tables<std::uint64_t>> tables_;
#endif
};

template <int D>
template <class Features>
void PermutohedralLattice<D>::build(const Features& features, std::int64_t point_count, std::int64_t silent_points,
                                    int threads) {
    if (silent_points > (INT32_MAX - 1) / (D + 1))
        throw std::invalid_argument("too many points for one lattice: expected at most " +
                                    std::to_string((INT32_MAX - 1) / (D + 1)) + ", found " +
                                    std::to_string(silent_points));
    point_count_ = point_count;

    // The range of each elevated coordinate, by interval arithmetic over the elevation (see locate).
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
        build_coded(features, silent_points, detail::VertexCoding<D, std::uint32_t>(first, count, widest), threads);
    else if (total < 0x1p64 * 0.999)
        build_coded(features, silent_points, detail::VertexCoding<D, std::uint64_t>(first, count, widest), threads);
    else
#if defined(__SIZEOF_INT128__)
        build_coded(features, silent_points, detail::VertexCoding<D, detail::Code128>(first, count, widest), threads);
    static_assert(D <= 6, "the codes of more dimensions need more than 128 bits");
#else
        throw std::invalid_argument("the lattice has more vertices than a 64-bit code can number; use larger sigmas");
#endif
}

template <int D>
template <class Code, class Features>
void PermutohedralLattice<D>::build_coded(const Features& features, std::int64_t point_count,
                                          const detail::VertexCoding<D, Code>& coding, int threads) {
    const std::int64_t block_count = (point_count + block_size - 1) / block_size;
    simplices_.resize(static_cast<std::size_t>(block_count));

    // Each thread takes a run of blocks and numbers the vertices it meets; below, the numberings become one.
    constexpr std::int64_t blocks_worth_a_thread = 64;
    const std::int64_t part_count =
        std::clamp<std::int64_t>(block_count / blocks_worth_a_thread, 1, std::max(threads, 1));
    Tables<Code>& tables = std::get<Tables<Code>>(tables_);
    tables.resize(static_cast<std::size_t>(part_count));
    const auto first_block = [&](std::int64_t part) { return block_count * part / part_count; };

    parallel_for(part_count, threads, [&](std::int64_t part, int) {
        auto& table = tables[static_cast<std::size_t>(part)];
        table.clear();
        Floats position[D];
        Code code[(D + 1) * block_size];
        for (std::int64_t block = first_block(part); block < first_block(part + 1); ++block) {
            Simplices& simplices = simplices_[static_cast<std::size_t>(block)];
            for (int offset = 0; offset < block_size; offset += lanes) {
                features.load(block * block_size + offset, position);
                locate(position, coding, code + offset, simplices.weight + offset);
            }
            // Beyond the last point: as if it were the first of its block.
            for (int p = points_of_block(block, point_count); p < block_size; ++p)
                for (int r = 0; r <= D; ++r) code[r * block_size + p] = code[r * block_size];
            table.find_or_insert(code, simplices.vertex);
        }
    });

    detail::VertexTable<Code>& table = tables.front();
    std::vector<std::vector<std::int32_t>> renumbered(static_cast<std::size_t>(part_count));
    for (std::size_t part = 1; part < tables.size(); ++part) {
        renumbered[part].resize(static_cast<std::size_t>(tables[part].size()) + 1);
        for (std::int32_t id = 1; id <= tables[part].size(); ++id)
            renumbered[part][static_cast<std::size_t>(id)] = table.find_or_insert(tables[part].code(id));
    }
    parallel_for(part_count - 1, threads, [&](std::int64_t i, int) {
        const std::int64_t part = i + 1;
        const auto& number = renumbered[static_cast<std::size_t>(part)];
        for (std::int64_t block = first_block(part); block < first_block(part + 1); ++block) {
            for (auto& vertex : simplices_[static_cast<std::size_t>(block)].vertex)
                vertex = number[static_cast<std::size_t>(vertex)];
        }
    });
    vertex_count_ = table.size();

    // If b is a's neighbour in direction j then a is b's in the opposite one: a single search gives both.
    parallel_for(D + 1, point_count < 4 * block_size * blocks_worth_a_thread ? 1 : threads, [&](std::int64_t j, int) {
        auto& neighbours = neighbours_[static_cast<std::size_t>(j)];
        neighbours.assign(static_cast<std::size_t>(vertex_count_) + 1, Neighbours{0, 0});
        constexpr int many = 64;
        Code code[many];
        std::int32_t other[many];
        for (std::int32_t first = 1; first <= vertex_count_; first += many) {
            const std::int32_t count = std::min(many, vertex_count_ - first + 1);
            for (std::int32_t i = 0; i < many; ++i)
                code[i] = coding.neighbour(table.code(first + std::min(i, count - 1)), static_cast<int>(j));
            table.find(code, other);
            for (std::int32_t i = 0; i < count; ++i) {
                neighbours[static_cast<std::size_t>(first + i)][0] = other[i];
                neighbours[static_cast<std::size_t>(other[i])][1] = first + i;
            }
        }
        neighbours[0] = {0, 0};
    });
}

// Find the simplex around each point of a vector: the codes of its vertices and the point's barycentric weights, put
// into a block at `offset`.
//
// No step branches. The arithmetic is float32, one rounding per operation (no fused multiply-add): another last bit
// can put a point into another simplex.
template <int D>
template <class Code>
inline void PermutohedralLattice<D>::locate(const Floats (&position)[D], const detail::VertexCoding<D, Code>& coding,
                                            Code* code, float* weight) const {
    constexpr float side = D + 1;
    constexpr float inverse = 1.0f / side;
    // Adding and taking away 1.5 * 2^23 rounds half to even, as every instruction set's rounding does, and needs none.
    constexpr float round_off = 12582912.0f;

    // Elevate the point into the hyperplane: y = E p.
    Floats elevated[D + 1];
    Floats sum{};
    BILATERAL_UNROLL
    for (int j = D; j > 0; --j) {
        const Floats step = position[j - 1] * scale_[j - 1];
        elevated[j] = sum - static_cast<float>(j) * step;
        sum += step;
    }
    elevated[0] = sum;

    // The closest vertex of colour 0: round each coordinate to a multiple of D+1.
    Floats quotient[D + 1], residual[D + 1];
    Floats off_plane{};
    BILATERAL_UNROLL
    for (int i = 0; i <= D; ++i) {
        quotient[i] = (elevated[i] * inverse + round_off) - round_off;
        residual[i] = elevated[i] - quotient[i] * side;
        off_plane += quotient[i];
    }

    // The rank of each coordinate in the descending order of the residuals tells the simplex. Of equal ones, the
    // first comes first. (True is -1 in vectors.)
    Ints rank[D + 1];
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

    // Rounding may have missed the hyperplane, by off_plane (D+1); so many coordinates, those that were rounded
    // furthest, move by D+1, and the ranks turn round.
    BILATERAL_UNROLL
    for (int i = 0; i <= D; ++i) {
        const Ints turn = (rank[i] > D) - (rank[i] < 0);
        rank[i] += turn * (D + 1);
        quotient[i] += __builtin_convertvector(turn, Floats);
        residual[i] = (elevated[i] - quotient[i] * side) * inverse;
    }

    // Barycentric coordinates: differences of successive residuals in the order of the ranks.
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

    // The canonical simplex: from the vertex of colour 0 to that of colour r every coordinate grows by r, but those
    // of the r last ranks fall by D+1-r, that is, their quotients by 1. Codes may be wider than a lane, so this is
    // left to the compiler.
    std::int32_t rank_of[D + 1][lanes], quotient_of[D + 1][lanes];
    BILATERAL_UNROLL
    for (int i = 0; i <= D; ++i) {
        store(rank_of[i], rank[i]);
        store(quotient_of[i], __builtin_convertvector(quotient[i], Ints) - coding.first[i]);
    }
    for (int p = 0; p < lanes; ++p) {
        Code origin = 0;
        BILATERAL_UNROLL
        for (int i = 0; i <= D; ++i) origin += static_cast<Code>(quotient_of[i][p]) * coding.stride[i];
        BILATERAL_UNROLL
        for (int r = 0; r <= D; ++r) {
            Code vertex = origin + static_cast<Code>(r);
            BILATERAL_UNROLL
            for (int i = 0; i <= D; ++i) vertex -= rank_of[i][p] > D - r ? coding.stride[i] : 0;
            code[r * block_size + p] = vertex;
        }
    }
}

template <int D>
void PermutohedralLattice<D>::filter(const float* in, float* out, std::int64_t channels, bool transpose,
                                     Workspace& workspace) const {
    // As few passes as max_channels allows, of about equal width.
    const std::int64_t passes = (channels + max_channels - 1) / max_channels;
    const auto first_channel = [&](std::int64_t pass) {
        return std::min(channels, (channels * pass / passes + channel_step - 1) / channel_step * channel_step);
    };
    for (std::int64_t pass = 0; pass < passes; ++pass) {
        const std::int64_t offset = first_channel(pass) * point_count_;
        const int width = static_cast<int>(first_channel(pass + 1) - first_channel(pass));
        try {
            filter_channels<channel_step>(in + offset, out + offset, width, transpose, workspace);
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
void PermutohedralLattice<D>::filter_channels(const float* in, float* out, int channels, bool transpose,
                                              Workspace& workspace) const {
    if constexpr (Width < max_channels)
        if (channels > Width) return filter_channels<Width + channel_step>(in, out, channels, transpose, workspace);

    const std::size_t size = (static_cast<std::size_t>(vertex_count_) + 1) * Width;
    auto& [values, blurred, seconds] = workspace;
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

    std::fill_n(blurred.begin(), Width, 0.0f);
    for (int step = 0; step <= D; ++step) {
        blur<Width>(transpose ? D - step : step, values.data(), blurred.data());
        values.swap(blurred);
    }
    seconds.blur += watch.lap();
    slice<Width>(values.data(), out, channels);
    seconds.slice += watch.lap();
}

// Turn [channel][point] into [point][channel], missing ones 0. in: the first point of the first channel.
template <int D>
template <int Width>
inline void PermutohedralLattice<D>::Block<Width>::gather(const float* in, int channels, std::int64_t row_length,
                                                          int points) {
    if (points < block_size) {
        std::memset(value, 0, sizeof value);
        for (int c = 0; c < channels; ++c)
            for (int p = 0; p < points; ++p) value[p][c] = in[c * row_length + p];
        return;
    }
    detail::for_channel_vectors<Width>([&](int c, auto zero) {
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

// The inverse of gather.
template <int D>
template <int Width>
inline void PermutohedralLattice<D>::Block<Width>::scatter(float* out, int channels, std::int64_t row_length,
                                                           int points) const {
    if (points < block_size) {
        for (int c = 0; c < channels; ++c)
            for (int p = 0; p < points; ++p) out[c * row_length + p] = value[p][c];
        return;
    }
    detail::for_channel_vectors<Width>([&](int c, auto zero) {
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

// Splat: every point, in their order, adds its weighted values to the vertices of its simplex.
template <int D>
template <int Width>
void PermutohedralLattice<D>::splat(const float* in, int channels, float* values) const {
    Block<Width> block;
    for (std::int64_t first = 0; first < point_count_; first += block_size) {
        const Simplices& simplices = simplices_[static_cast<std::size_t>(first / block_size)];
        const int points = points_of_block(first / block_size, point_count_);
        block.gather(in + first, channels, point_count_, points);
        for (int p = 0; p < points; ++p) {
            BILATERAL_UNROLL
            for (int r = 0; r <= D; ++r) {
                float* vertex = values + static_cast<std::size_t>(simplices.vertex[r * block_size + p]) * Width;
                const float weight = simplices.weight[r * block_size + p];
                detail::for_channel_vectors<Width>([&](int c, auto zero) {
                    using V = decltype(zero);
                    store(vertex + c, load<V>(vertex + c) + weight * load<V>(&block.value[p][c]));
                });
            }
        }
    }
}

// Blur: add half of both neighbours along one axis. (1/2, 1, 1/2) is twice the paper's kernel; slice's alpha
// accounts for it.
template <int D>
template <int Width>
void PermutohedralLattice<D>::blur(int axis, const float* values, float* blurred) const {
    const auto& neighbours = neighbours_[static_cast<std::size_t>(axis)];
    for (std::size_t id = 1; id < neighbours.size(); ++id) {
        const float* one = values + static_cast<std::size_t>(neighbours[id][0]) * Width;
        const float* other = values + static_cast<std::size_t>(neighbours[id][1]) * Width;
        const float* old = values + id * Width;
        float* result = blurred + id * Width;
        detail::for_channel_vectors<Width>([&](int c, auto zero) {
            using V = decltype(zero);
            store(result + c, load<V>(old + c) + (load<V>(one + c) + load<V>(other + c)) * 0.5f);
        });
    }
}

// Slice: every point gathers its vertices' values.
//
// alpha = 1 / (1 + 2^-D) is the published filter's estimate [KK11] of what splat, blur and slice together gain.
template <int D>
template <int Width>
void PermutohedralLattice<D>::slice(const float* values, float* out, int channels) const {
    constexpr float alpha = 1.0f / (1.0f + 1.0f / static_cast<float>(1 << D));
    Block<Width> block;
    for (std::int64_t first = 0; first < point_count_; first += block_size) {
        const Simplices& simplices = simplices_[static_cast<std::size_t>(first / block_size)];
        const int points = points_of_block(first / block_size, point_count_);
        for (int p = 0; p < points; ++p) {
            const float* vertex[D + 1];
            float weight[D + 1];
            BILATERAL_UNROLL
            for (int r = 0; r <= D; ++r) {
                vertex[r] = values + static_cast<std::size_t>(simplices.vertex[r * block_size + p]) * Width;
                weight[r] = simplices.weight[r * block_size + p] * alpha;
            }
            detail::for_channel_vectors<Width>([&](int c, auto zero) {
                using V = decltype(zero);
                V sum = zero;
                BILATERAL_UNROLL
                for (int r = 0; r <= D; ++r) sum += weight[r] * load<V>(vertex[r] + c);
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
        if (!std::isfinite(in[i])) throw NonFiniteValue{i};
}

}  // namespace bilateral::BILATERAL_TARGET
