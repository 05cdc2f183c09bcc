#include "bilateralfilter.hpp"

#include <cmath>
#include <functional>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#include <unistd.h>
#endif

#include "engine.hpp"

namespace bilateral {
namespace {

struct Engine {
    const char* name;
    PhaseSeconds (*filter_batch)(const Batch&, int threads);
};

// Those that this machine can run, the fastest first.
std::vector<Engine> engines() {
    std::vector<Engine> found;
#if defined(BILATERAL_AVX512)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
        found.push_back({"avx512", avx512::filter_batch});
#endif
#if defined(BILATERAL_AVX2)
    if (__builtin_cpu_supports("avx2")) found.push_back({"avx2", avx2::filter_batch});
#endif
    found.push_back({"baseline", baseline::filter_batch});
    return found;
}

#if defined(_OPENMP)
const pid_t loaded_in_process = getpid();
#endif

// How many threads a call may use.
//
// One in a child process made by fork(): the threads of the parent's OpenMP pool do not exist there, and the common
// runtimes would wait for them for ever.
int available_threads() {
#if defined(_OPENMP)
    return getpid() == loaded_in_process ? omp_get_max_threads() : 1;
#else
    return 1;
#endif
}

[[noreturn]] void fail(const std::string& argument, const std::string& expected, const std::string& found) {
    throw std::invalid_argument(argument + ": expected " + expected + ", found " + found);
}

float checked_sigma(const char* name, double sigma) {
    const float rounded = static_cast<float>(sigma);
    if (!(rounded > 0) || !std::isfinite(rounded)) fail(name, "a positive finite number", std::to_string(sigma));
    return rounded;
}

void check_size(const char* name, std::int64_t size) {
    if (size <= 0) fail(name, "a positive number", std::to_string(size));
}

void check_length(const char* name, const std::string& meaning, std::size_t length,
                  std::initializer_list<std::int64_t> factors) {
    constexpr std::int64_t limit = std::int64_t(1) << 48;
    std::int64_t expected = 1;
    for (const std::int64_t factor : factors) {
        if (factor > limit / expected) fail(name, meaning + " at most 2^48 values", "more");
        expected *= factor;
    }
    if (length != static_cast<std::size_t>(expected))
        fail(name, std::to_string(expected) + " values (" + meaning + ")", std::to_string(length));
}

void check_overlap(const char* in_name, const Input& in, const char* out_name, const Output& out) {
    const std::less<const float*> before;
    if (before(in.data, out.data + out.length) && before(out.data, in.data + in.length))
        throw std::invalid_argument(std::string(out_name) + ": expected memory of its own, found that it overlaps " +
                                    in_name);
}

// What the caller calls the arrays, for messages.
struct Names {
    const char* image;
    const char* in;
    const char* out;
};

PhaseSeconds filter_checked(const Engine& engine, const Names& names, const Input& images, const Input& ins,
                            const Output& outs, std::int64_t N, std::int64_t K, std::int64_t H, std::int64_t W,
                            double sigma_rgb, double sigma_xy, bool transpose) {
    const Batch batch{images.data,
                      ins.data,
                      outs.data,
                      N,
                      K,
                      H,
                      W,
                      checked_sigma("sigma_rgb", sigma_rgb),
                      checked_sigma("sigma_xy", sigma_xy),
                      transpose,
                      names.image,
                      names.in};
    check_overlap(names.image, images, names.out, outs);
    check_overlap(names.in, ins, names.out, outs);
    return engine.filter_batch(batch, available_threads());
}

PhaseSeconds filter_with(const Engine& engine, const Input& images, const Input& ins, const Output& outs,
                         std::int64_t N, std::int64_t K, std::int64_t H, std::int64_t W, double sigma_rgb,
                         double sigma_xy, bool transpose) {
    check_size("N", N);
    check_size("K", K);
    check_size("H", H);
    check_size("W", W);
    check_length("images", "N*3*H*W", images.length, {N, 3, H, W});
    check_length("ins", "N*K*H*W", ins.length, {N, K, H, W});
    check_length("outs", "N*K*H*W", outs.length, {N, K, H, W});
    return filter_checked(engine, {"images", "ins", "outs"}, images, ins, outs, N, K, H, W, sigma_rgb, sigma_xy,
                          transpose);
}

}  // namespace

void bilateralfilter_batch(Input images, Input ins, Output outs, std::int64_t N, std::int64_t K, std::int64_t H,
                           std::int64_t W, double sigma_rgb, double sigma_xy, bool transpose) {
    filter_with(engines().front(), images, ins, outs, N, K, H, W, sigma_rgb, sigma_xy, transpose);
}

void bilateralfilter(Input image, Input in, Output out, std::int64_t H, std::int64_t W, double sigma_rgb,
                     double sigma_xy, bool transpose) {
    check_size("H", H);
    check_size("W", W);
    check_length("image", "3*H*W", image.length, {3, H, W});
    check_length("in", "H*W", in.length, {H, W});
    check_length("out", "H*W", out.length, {H, W});
    filter_checked(engines().front(), {"image", "in", "out"}, image, in, out, 1, 1, H, W, sigma_rgb, sigma_xy,
                   transpose);
}

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Engine& engine : engines()) names.emplace_back(engine.name);
    return names;
}

PhaseSeconds bilateralfilter_profile(Input images, Input ins, Output outs, std::int64_t N, std::int64_t K,
                                     std::int64_t H, std::int64_t W, double sigma_rgb, double sigma_xy, bool transpose,
                                     const std::string& instruction_set) {
    std::string names;
    for (const Engine& engine : engines()) {
        if (instruction_set.empty() || instruction_set == engine.name)
            return filter_with(engine, images, ins, outs, N, K, H, W, sigma_rgb, sigma_xy, transpose);
        names += (names.empty() ? "" : ", ") + std::string(engine.name);
    }
    fail("instruction_set", "one of " + names, instruction_set);
}

}  // namespace bilateral
