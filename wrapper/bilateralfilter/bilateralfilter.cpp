#include "bilateralfilter.hpp"

#include <cmath>
#include <functional>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#include <unistd.h>
#endif

#include "engine.hpp"
#include "spanning_tree.hpp"
#include "window.hpp"

namespace bilateral {
namespace {

struct Engine {
    const char* name;
    PhaseSeconds (*filter_checked)(const Guide&, const Channels&, int threads);
    std::unique_ptr<const BuiltLattice> (*build_checked)(const Guide&, int threads);
    std::unique_ptr<const BuiltForest> (*build_forest)(const Grid&, const Input& lengths, int threads);
    void (*window_checked)(const Window&, const WindowChannels&, int threads);
    void (*mean_field_checked)(const Guide&, const Channels&, const MeanField&, int threads);
};

// Those that this machine can run, the fastest first.
std::vector<Engine> engines() {
    std::vector<Engine> found;
#if defined(BILATERAL_AVX2)
    if (__builtin_cpu_supports("avx2"))
        found.push_back({"avx2", avx2::filter_checked, avx2::build_checked, avx2::build_forest, avx2::window_checked,
                         avx2::mean_field_checked});
#endif
    found.push_back({"baseline", baseline::filter_checked, baseline::build_checked, baseline::build_forest,
                     baseline::window_checked, baseline::mean_field_checked});
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
    if (!(rounded > 0)) fail(name, "a positive number", std::to_string(sigma));
}

void check_weight(const char* name, double weight) {
    if (!std::isfinite(weight)) fail(name, "a finite number", std::to_string(weight));
}

void check_size(const char* name, std::int64_t size) {
    if (size <= 0) fail(name, "a positive number", std::to_string(size));
}

std::string text(const std::vector<std::int64_t>& shape) {
    std::string text;
    for (const std::int64_t size : shape) text += (text.empty() ? "[" : ", ") + std::to_string(size);
    return text + "]";
}

// An array of another number of dimensions, such as a flat one, is taken in row order.
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
    const std::vector<std::int64_t> sizes = factors;
    if (array.shape.size() == sizes.size() && array.shape != sizes)
        fail(array.name, "the shape " + text(sizes) + " (" + meaning + ")", text(array.shape));
}

void check_sigmas(const Guide& guide) {
    check_sigma("sigma_rgb", guide.sigma_rgb);
    check_sigma("sigma_xy", guide.sigma_xy);
}

void check_apart(const Input& in, const Output& out) {
    const std::less<const float*> before;
    if (before(in.data, out.data + out.length) && before(out.data, in.data + in.length))
        throw std::invalid_argument(std::string(out.name) + ": expected memory of its own, found that it overlaps " +
                                    in.name);
}

// The guide's images may be absent.
void check_overlap(const Guide& guide, const Channels& channels) {
    check_apart(guide.images, channels.outs);
    if (channels.ins.data != channels.outs.data) check_apart(channels.ins, channels.outs);
}

void check_guide(const Guide& guide) {
    check_size("N", guide.N);
    check_size("H", guide.H);
    check_size("W", guide.W);
    check_length(guide.images, "N*3*H*W", {guide.N, 3, guide.H, guide.W});
    check_sigmas(guide);
}

void check_channels(const Guide& guide, const Channels& channels) {
    check_size("K", channels.K);
    check_length(channels.ins, "N*K*H*W", {guide.N, channels.K, guide.H, guide.W});
    check_length(channels.outs, "N*K*H*W", {guide.N, channels.K, guide.H, guide.W});
    check_overlap(guide, channels);
}

constexpr const char* per_edge = "N*(H*(W-1)+(H-1)*W)";

void check_tree_values(const Grid& grid, const TreeValues& values) {
    check_size("K", values.K);
    check_length(values.ins, "N*K*H*W", {grid.N, values.K, grid.H, grid.W});
    check_length(values.weights, per_edge, {grid.N, grid.edges()});
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

PhaseSeconds filter_batch(const Guide& guide, const Channels& channels, const std::string& instruction_set) {
    check_guide(guide);
    check_channels(guide, channels);
    return chosen_engine(instruction_set).filter_checked(guide, channels, available_threads());
}

PhaseSeconds filter_image(const Guide& guide, const Channels& channels) {
    check_size("H", guide.H);
    check_size("W", guide.W);
    check_length(guide.images, "3*H*W", {3, guide.H, guide.W});
    check_sigmas(guide);
    const std::size_t pixels = static_cast<std::size_t>(guide.pixels()), length = channels.ins.length;
    if (length == 0 || length % pixels != 0)
        fail(channels.ins.name, "a multiple of " + std::to_string(pixels) + " values (K*H*W)", std::to_string(length));
    Channels counted = channels;
    counted.K = static_cast<std::int64_t>(length / pixels);
    check_length(channels.ins, "K*H*W", {counted.K, guide.H, guide.W});
    check_length(channels.outs, "K*H*W", {counted.K, guide.H, guide.W});
    check_overlap(guide, channels);
    return chosen_engine("").filter_checked(guide, counted, available_threads());
}

Lattice::Lattice(const Guide& guide, const std::string& instruction_set) : guide_(guide) {
    check_guide(guide);
    built_ = chosen_engine(instruction_set).build_checked(guide, available_threads());
    guide_.images = {};
}

Lattice::~Lattice() = default;

PhaseSeconds Lattice::filter(const Channels& channels) const {
    check_channels(guide_, channels);
    return built_->filter(channels, available_threads());
}

SpanningForest::SpanningForest(const Grid& grid, const Input& lengths, const std::string& instruction_set)
    : grid_(grid) {
    check_size("N", grid.N);
    check_size("H", grid.H);
    check_size("W", grid.W);
    constexpr std::int64_t limit = std::int64_t(1) << 30;
    if (grid.H >= limit / grid.W)
        fail("H, W", "less than 2^30 pixels", std::to_string(grid.H) + " x " + std::to_string(grid.W));
    check_length(lengths, per_edge, {grid.N, grid.edges()});
    built_ = chosen_engine(instruction_set).build_forest(grid, lengths, available_threads());
}

SpanningForest::~SpanningForest() = default;

void SpanningForest::filter(const TreeValues& values, const Output& outs, const Output& masses) const {
    check_tree_values(grid_, values);
    check_length(outs, "N*K*H*W", {grid_.N, values.K, grid_.H, grid_.W});
    check_length(masses, "N*H*W", {grid_.N, grid_.H, grid_.W});
    if (values.ins.data != outs.data) check_apart(values.ins, outs);
    check_apart(values.weights, outs);
    for (const Input& input : {values.ins, values.weights, Input{outs.name, outs.data, outs.length}})
        check_apart(input, masses);
    built_->filter(values, outs, masses, available_threads());
}

void SpanningForest::filter_transposed(const TreeValues& values, const Input& masses, const Output& outs) const {
    check_tree_values(grid_, values);
    check_length(masses, "N*H*W", {grid_.N, grid_.H, grid_.W});
    check_length(outs, "N*K*H*W", {grid_.N, values.K, grid_.H, grid_.W});
    if (values.ins.data != outs.data) check_apart(values.ins, outs);
    for (const Input& input : {values.weights, masses}) check_apart(input, outs);
    built_->filter_transposed(values, masses, outs, available_threads());
}

void SpanningForest::edge_gradient(const TreeValues& values, const Input& gradients, const Output& outs) const {
    check_tree_values(grid_, values);
    check_length(gradients, "N*K*H*W", {grid_.N, values.K, grid_.H, grid_.W});
    check_length(outs, per_edge, {grid_.N, grid_.edges()});
    for (const Input& input : {values.ins, values.weights, gradients}) check_apart(input, outs);
    built_->edge_gradient(values, gradients, outs, available_threads());
}

void filter_window(const Window& window, const WindowChannels& channels, const std::string& instruction_set) {
    check_size("N", window.N);
    check_size("K", channels.K);
    check_size("H", window.H);
    check_size("W", window.W);
    check_size("radius", window.radius);
    check_length(window.images, "N*3*H*W", {window.N, 3, window.H, window.W});
    check_length(window.regions, "N*H*W", {window.N, window.H, window.W});
    check_length(channels.ins, "N*K*H*W", {window.N, channels.K, window.H, window.W});
    check_length(channels.outs, "N*K*H*W", {window.N, channels.K, window.H, window.W});
    check_length(channels.masses, "N*H*W", {window.N, window.H, window.W});
    check_sigma("sigma_rgb", window.sigma_rgb);
    check_sigma("sigma_xy", window.sigma_xy);
    check_sigma("smoothness_xy", window.smoothness_xy);
    if (!(window.smoothness_weight >= 0))
        fail("smoothness_weight", "0 or more", std::to_string(window.smoothness_weight));
    for (const Input& input : {window.images, window.regions, channels.ins})
        for (const Output& output : {channels.outs, channels.masses}) check_apart(input, output);
    check_apart({channels.masses.name, channels.masses.data, channels.masses.length}, channels.outs);
    chosen_engine(instruction_set).window_checked(window, channels, available_threads());
}

void mean_field(const Guide& guide, const Channels& channels, const MeanField& settings,
                const std::string& instruction_set) {
    check_guide(guide);
    check_channels(guide, channels);
    check_sigma("smoothness_xy", settings.smoothness_xy);
    if (settings.iterations < 0) fail("iterations", "a number from 0 on", std::to_string(settings.iterations));
    check_weight("appearance_weight", settings.appearance_weight);
    check_weight("smoothness_weight", settings.smoothness_weight);
    chosen_engine(instruction_set).mean_field_checked(guide, channels, settings, available_threads());
}

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const Engine& engine : engines()) names.emplace_back(engine.name);
    return names;
}

}  // namespace bilateral
