// Small vectors in the compiler's own notation (GCC and Clang): `a + b` adds lane by lane.
//
// This and every file that includes it is compiled once for each instruction set (see setup.py). BILATERAL_TARGET names
// the set and is the namespace, so that the copies stay apart.
//
// There is none for AVX-512: with it the filter was 0 to 5 % faster than with AVX2, depending on the sizes.

#pragma once

#include <cstdint>
#include <cstring>

#if !defined(BILATERAL_TARGET)
#define BILATERAL_TARGET baseline
#endif

// Stands before a short loop over an array of vectors: only when the loop is unrolled do they stay in registers. Clang
// unrolls these by itself.
#if defined(__GNUC__) && !defined(__clang__)
#define BILATERAL_UNROLL _Pragma("GCC unroll 16")
#else
#define BILATERAL_UNROLL
#endif

// For the steps of one inner loop: vectors that pass between them stay in registers.
#define BILATERAL_INLINE [[gnu::always_inline]] inline

namespace bilateral::BILATERAL_TARGET {

// Values of 32 bits in a register of the instruction set.
#if defined(__AVX2__)
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

// Added and subtracted, it rounds a float below 2^22 to an integer, half to even, as instructions for rounding do.
constexpr float round_off = 0x1.8p23f;

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

}  // namespace bilateral::BILATERAL_TARGET
