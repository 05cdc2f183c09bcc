// Small vectors in the compiler's own notation (GCC and Clang): `a + b` adds lane by lane.
//
// This and every file that includes it is compiled once for each instruction set (see setup.py). BILATERAL_TARGET names
// the set and is the namespace, so that the copies stay apart.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if !defined(BILATERAL_TARGET)
#define BILATERAL_TARGET baseline
#endif

// Before a short loop over registers, which has to go for them to be registers. Clang unrolls these by itself.
#if defined(__GNUC__) && !defined(__clang__)
#define BILATERAL_UNROLL _Pragma("GCC unroll 16")
#else
#define BILATERAL_UNROLL
#endif

namespace bilateral::BILATERAL_TARGET {

// Values of 32 bits in a register of the instruction set.
#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

namespace detail {
template <class T, int n>
struct VectorOf {
    typedef T type __attribute__((vector_size(n * sizeof(T))));
};
}  // namespace detail

template <class T, int n>
using Vector = typename detail::VectorOf<T, n>::type;

using Floats = Vector<float, lanes>;
using Ints = Vector<std::int32_t, lanes>;

// Aligned or not.
template <class V, class T>
inline V load(const T* place) {
    V value;
    std::memcpy(&value, place, sizeof(V));
    return value;
}

template <class V, class T>
inline void store(T* place, V value) {
    std::memcpy(place, &value, sizeof(V));
}

// 0, 1, 2, ...
inline Ints lane_numbers() {
    Ints numbers{};
    for (int i = 0; i < lanes; ++i) numbers[i] = i;
    return numbers;
}

namespace detail {

// Swap the upper right and the lower left quarter of every square of 2 size x 2 size values, of which `upper` and
// `lower` are rows with `size` rows between them.
template <int size, int n, int... lane>
inline void swap_quarters(Vector<float, n>& upper, Vector<float, n>& lower, std::integer_sequence<int, lane...>) {
#if defined(__clang__) || __GNUC__ >= 12
    const auto a = __builtin_shufflevector(upper, lower, ((lane & size) ? n + lane - size : lane)...);
    const auto b = __builtin_shufflevector(upper, lower, ((lane & size) ? n + lane : lane + size)...);
#else
    const auto a = __builtin_shuffle(upper, lower, Vector<std::int32_t, n>{((lane & size) ? n + lane - size : lane)...});
    const auto b = __builtin_shuffle(upper, lower, Vector<std::int32_t, n>{((lane & size) ? n + lane : lane + size)...});
#endif
    upper = a;
    lower = b;
}

}  // namespace detail

// Transpose n x n values: row i becomes column i. Halves of halves: squares of 2, 4, ... n values swap two quarters.
template <int n, int size = 1>
inline void transpose(Vector<float, n> (&row)[n]) {
    BILATERAL_UNROLL
    for (int i = 0; i < n; ++i)
        if (!(i & size))
            detail::swap_quarters<size, n>(row[i], row[i + size], std::make_integer_sequence<int, n>());
    if constexpr (2 * size < n) transpose<n, 2 * size>(row);
}

}  // namespace bilateral::BILATERAL_TARGET
