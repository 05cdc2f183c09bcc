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
    PhaseSeconds (*filter_checked)(const Problem&, int threads);
};

// Those that this machine can run, the fastest first.
std::vector<Engine> engines() {
    std::vector<Engine> found;
#if defined(BILATERAL_AVX2)
    if (__builtin_cpu_supports("avx2")) found.push_back({"avx2", avx2::filter_checked});
#endif
    found.push_back({"baseline", baseline::filter_checked});
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

void check_sigma(const char* name, double sigma) {
    const float rounded = static_cast<float>(sigma);
    if (!(rounded > 0) || !std::isfinite(rounded)) fail(name, "a positive finite number", std::to_string(sigma));
}

void check_size(const char* name, std::int64_t size) {
    if (size <= 0) fail(name, "a positive number", std::to_string(size));
}

template <class Array>
void check_length(const Array& array, const std::string& meaning, std::initializer_list<std::int64_t> factors) {
    constexpr std::int64_t limit = std::int64_t(1) << 48;
    std::int64_t expected = 1;
    for (const std::int64_t factor : factors) {
        if (factor > limit / expected) fail(array.name, meaning + " at most 2^48 values", "more");
        expected *= factor;
    }
    if (array.length != static_cast<std::size_t>(expected))
        fail(array.name, std::to_string(expected) + " values (" + meaning + ")", std::to_string(array.length));
}

void check_overlap(const Input& in, const Output& out) {
    const std::less<const float*> before;
    if (before(in.data, out.data + out.length) && before(out.data, in.data + in.length))
        throw std::invalid_argument(std::string(out.name) + ": expected memory of its own, found that it overlaps " +
                                    in.name);
}

PhaseSeconds filter(const Problem& problem, const Engine& engine) {
    check_sigma("sigma_rgb", problem.kernel.sigma_rgb);
    check_sigma("sigma_xy", problem.kernel.sigma_xy);
    check_overlap(problem.images, problem.outs);
    check_overlap(problem.ins, problem.outs);
    return engine.filter_checked(problem, available_threads());
}

Engine chosen_engine(const std::string& instruction_set) {
    std::string names;
    for (const Engine& engine : engines()) {
        if (instruction_set.empty() || instruction_set == engine.name) return engine;
        names += (names.empty() ? "" : ", ") + std::string(engine.name);
    }
    fail("instruction_set", "one of " + names, instruction_set);
}

}  // namespace

PhaseSeconds filter_batch(const Problem& problem, const std::string& instruction_set) {
    const auto [N, K, H, W] = problem.shape;
    check_size("N", N);
    check_size("K", K);
    check_size("H", H);
    check_size("W", W);
    check_length(problem.images, "N*3*H*W", {N, 3, H, W});
    check_length(problem.ins, "N*K*H*W", {N, K, H, W});
    check_length(problem.outs, "N*K*H*W", {N, K, H, W});
    return filter(problem, chosen_engine(instruction_set));
}

PhaseSeconds filter_image(const Problem& problem) {
    const std::int64_t H = problem.shape.H, W = problem.shape.W;
    check_size("H", H);
    check_size("W", W);
    check_length(problem.images, "3*H*W", {3, H, W});
    check_length(problem.ins, "H*W", {H, W});
    check_length(problem.outs, "H*W", {H, W});
    return filter(problem, chosen_engine(""));
}

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Engine& engine : engines()) names.emplace_back(engine.name);
    return names;
}

}  // namespace bilateral
