// Numbering and finding the vertices of the permutohedral lattice.
//
// A vertex has D+1 coordinates, but nearly all of a filter's time would go into hashing and comparing them. Here each
// vertex is one integer, its code (VertexCoding), and the vertices that occur are found by their codes in a hash table
// that gives them numbers 1, 2, ... (VertexTable).

#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "vectors.hpp"

namespace bilateral::BILATERAL_TARGET {

// Asks Linux for pages of megabytes. Vertices lie all over tens of megabytes if the lattice is fine; with pages of
// 4 KB, finding their addresses takes a third of the splat's time, a quarter of the blur's and a tenth of the mean
// field's.
inline void prefer_huge_pages([[maybe_unused]] void* place, [[maybe_unused]] std::size_t bytes) {
#if defined(MADV_HUGEPAGE)
    constexpr std::uintptr_t huge = std::uintptr_t(1) << 21;
    const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(place);
    const std::uintptr_t first = (begin + huge - 1) / huge * huge, last = (begin + bytes) / huge * huge;
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// Gives std::vector memory that starts on a cache line and is not zeroed by resize(). Buffers of megabytes that are
// written in full anyway would otherwise be written twice, which costs 5 to 10 % of filtering a single large image.
template <class T>
struct BufferAllocator : std::allocator<T> {
    template <class U>
    struct rebind {
        using other = BufferAllocator<U>;
    };
    static constexpr std::align_val_t alignment{64};

    T* allocate(std::size_t count) {
        void* place = ::operator new(count * sizeof(T), alignment);
        prefer_huge_pages(place, count * sizeof(T));
        return static_cast<T*>(place);
    }
    void deallocate(T* place, std::size_t) { ::operator delete(place, alignment); }

    // Default initialisation, which leaves numbers as they are; what else is constructed follows std::allocator.
    template <class U>
    void construct(U* place) noexcept {
        ::new (static_cast<void*>(place)) U;
    }
};

template <class T>
using Buffer = std::vector<T, BufferAllocator<T>>;

// The quotients floor(x_i / (D+1)) that the vertices around a set of points, and their blur neighbours, can have:
// first[i] ... first[i] + count[i] - 1 in coordinate i.
template <int D>
struct QuotientRange {
    std::array<std::int32_t, D + 1> first{}, count{};

    // low, high: bounds of each elevated coordinate over all points.
    QuotientRange(const std::array<double, D + 1>& low, const std::array<double, D + 1>& high) {
        double slack = 0;  // for rounding in float32
        for (int i = 0; i <= D; ++i) slack = std::max({slack, 1e-6 * std::abs(low[i]), 1e-6 * std::abs(high[i])});
        for (int i = 0; i <= D; ++i) {
            // A vertex of the simplex around a point is less than D+1 away from it in each coordinate, so its quotient
            // is at most 2 below and 1 above the point's; its blur neighbours may be 1 further out.
            first[i] = static_cast<std::int32_t>(std::floor((low[i] - slack) / (D + 1))) - 3;
            count[i] = static_cast<std::int32_t>(std::floor((high[i] + slack) / (D + 1))) + 2 - first[i] + 1;
        }
    }

    [[nodiscard]] int widest() const {
        return static_cast<int>(std::max_element(count.begin(), count.end()) - count.begin());
    }

    // How many codes VertexCoding needs for them.
    [[nodiscard]] double codes() const {
        double codes = D + 1;
        for (int i = 0; i <= D; ++i) codes *= i == widest() ? 1 : count[i];
        return codes;
    }
};

// Maps vertices to integers, each to one of its own.
//
// All coordinates of a vertex are congruent modulo D+1; if they are congruent to r, the vertex is said to be of colour
// r. So the vertex x is given by r and the quotients q_i = (x_i - r) / (D+1), i = 0..D, one of which follows from the
// others, as the coordinates sum to 0. The code is the position of the vertex in an array of shape
// (count_D, ..., count_0, D+1) without the axis of the widest range:
//
//     code = r + sum_i (q_i - first_i) * stride_i,    stride_i = 0 for the quotient left out
//
// A step on the lattice is then an addition to the code.
template <int D, class Code>
class VertexCoding {
 public:
    explicit VertexCoding(const QuotientRange<D>& range) : first(range.first) {
        Code next = D + 1;
        for (int i = 0; i <= D; ++i) {
            if (i == range.widest()) continue;
            stride[i] = next;
            carry_ += next;
            next *= static_cast<Code>(range.count[i]);
        }
    }

    // The neighbour in direction j: every coordinate grows by 1, but x_j falls by D. From colour D, the remainder
    // returns to 0 and every quotient takes the carry.
    [[nodiscard]] Code neighbour(Code code, int j) const {
        const bool carries = code % (D + 1) == D;
        return code + (carries ? carry_ - D : Code(1)) - stride[j];
    }

    std::array<std::int32_t, D + 1> first;
    std::array<Code, D + 1> stride{};

 private:
    Code carry_ = 0;
};

// The vertices that occur, numbered 1, 2, ... in the order of their insertion; 0 means "absent".
//
// Open addressing with linear probing and a multiplicative hash. The slots hold the numbers alone, 0 if empty; the
// codes lie in the order of the numbers. No code is 0, since every range of quotients has a margin below, and so
// codes_[0], which is 0, makes an empty slot match nothing.
template <class Code>
class VertexTable {
 public:
    VertexTable() : slots_(std::size_t(1) << bits_), codes_(1) {}

    // Forgets the vertices but keeps the memory.
    void clear() {
        std::fill(slots_.begin(), slots_.end(), 0);
        codes_.resize(1);
    }

    [[nodiscard]] std::int32_t size() const { return static_cast<std::int32_t>(codes_.size()) - 1; }
    [[nodiscard]] Code code(std::int32_t id) const { return codes_[static_cast<std::size_t>(id)]; }

    // Look up many codes at once; ids[i] becomes 0 where codes[i] is absent.
    template <int count>
    void find(const Code (&codes)[count], std::int32_t (&ids)[count]) const {
        const Misses<count> misses = look<true>(codes, ids);
        for (int k = 0; k < misses.count; ++k) ids[misses.index[k]] = slots_[search(codes[misses.index[k]])];
    }

    // The same, numbering those that are absent.
    template <int count>
    void find_or_insert(const Code (&codes)[count], std::int32_t (&ids)[count]) {
        const Misses<count> misses = look<false>(codes, ids);
        for (int k = 0; k < misses.count; ++k) ids[misses.index[k]] = find_or_insert(codes[misses.index[k]]);
    }

    std::int32_t find_or_insert(Code code) {
        std::size_t slot = search(code);
        if (slots_[slot] == 0) {
            codes_.push_back(code);
            if (codes_.size() * (slots_.size() < large_table ? 8 : 2) > slots_.size()) {
                grow();
                slot = search(code);
            }
            slots_[slot] = size();
        }
        return slots_[slot];
    }

 private:
    // Those of a group of codes whose search has not ended in its first slot.
    template <int capacity>
    struct Misses {
        static_assert(capacity <= 256, "an index has 8 bits");
        std::uint8_t index[capacity];
        int count;
    };

    // Look into the slot where the search for each code begins and, as the table is nearly empty, almost always ends.
    // Coming upon an empty slot ends a search, too, if the caller does not want to insert (absent_is_fine).
    //
    // Nothing here branches, and no address depends on an earlier code's result. So the processor fetches many slots at
    // a time and mispredicts nothing, which makes the filter 5 to 30 % faster than one search after another.
    template <bool absent_is_fine, int count>
    Misses<count> look(const Code (&codes)[count], std::int32_t (&ids)[count]) const {
        std::uint32_t first[count];
        for (int i = 0; i < count; ++i) first[i] = static_cast<std::uint32_t>(first_slot(codes[i]));
        const std::int32_t* slots = slots_.data();
        const Code* codes_by_id = codes_.data();
        Misses<count> misses;
        std::size_t missed = 0;
        BILATERAL_UNROLL
        for (int i = 0; i < count; ++i) {
            ids[i] = slots[first[i]];
            misses.index[missed] = static_cast<std::uint8_t>(i);
            missed += (codes_by_id[ids[i]] != codes[i]) & !(absent_is_fine && ids[i] == 0);
        }
        misses.count = static_cast<int>(missed);
        return misses;
    }

    [[nodiscard]] std::size_t first_slot(Code code) const {
        if constexpr (sizeof(Code) == 4)
            return static_cast<std::uint32_t>(code * 0x9E3779B1u) >> (32 - bits_);
        else
            return static_cast<std::size_t>((code * 0x9E3779B97F4A7C15u) >> (64 - bits_));
    }

    // The slot that holds the code's number, or the empty one in which it would be put.
    [[nodiscard]] std::size_t search(Code wanted) const {
        std::size_t slot = first_slot(wanted);
        while (slots_[slot] != 0 && code(slots_[slot]) != wanted) slot = (slot + 1) & (slots_.size() - 1);
        return slot;
    }

    // Doubles the slots and numbers all codes again but the last, which is just being inserted.
    void grow() {
        bits_ += 1;
        slots_.assign(std::size_t(1) << bits_, 0);
        for (std::int32_t id = 1; id < size(); ++id) slots_[search(code(id))] = id;
    }

    // Up to this many slots a table is kept at least seven eighths empty, beyond that half empty.
    static constexpr std::size_t large_table = std::size_t(1) << 17;

    int bits_ = 12;
    Buffer<std::int32_t> slots_;
    std::vector<Code> codes_;
};

}  // namespace bilateral::BILATERAL_TARGET
