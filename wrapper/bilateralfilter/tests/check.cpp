// The extension's own tests, without Python; made to run under AddressSanitizer and UndefinedBehaviorSanitizer.
//
//   check                    fixed cases against the plain filter, and the errors
//   check fuzz CALLS [SEED]  that many small random calls, valid and invalid ones
//
// Exit status 0 if all is well; otherwise 1 and what failed.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../bilateralfilter.hpp"
#include "checking.hpp"
#include "plain_filter.hpp"

namespace {

using bilateral::Operator;

struct Shape {
    std::int64_t N = 1, K = 1, H = 0, W = 0;

    [[nodiscard]] std::int64_t pixels() const { return H * W; }
};

struct Kernel {
    double sigma_rgb = 0, sigma_xy = 0;
    Operator applied = Operator::plain;
};

// What to filter, and the memory of its arrays.
struct Case {
    Shape shape;
    Kernel kernel;
    std::vector<float> images, ins;

    [[nodiscard]] bilateral::Guide guide() const {
        return {{"images", images.data(), images.size()}, shape.N, shape.H, shape.W, kernel.sigma_rgb, kernel.sigma_xy};
    }

    [[nodiscard]] bilateral::Channels into(std::vector<float>& outs) const {
        return {{"ins", ins.data(), ins.size()}, {"outs", outs.data(), outs.size()}, shape.K, kernel.applied};
    }

    [[nodiscard]] std::string text() const {
        const auto& [N, K, H, W] = shape;
        return "N=" + std::to_string(N) + " K=" + std::to_string(K) + " H=" + std::to_string(H) +
               " W=" + std::to_string(W) + " sigma_rgb=" + std::to_string(kernel.sigma_rgb) +
               " sigma_xy=" + std::to_string(kernel.sigma_xy) + " operator " +
               std::to_string(static_cast<int>(kernel.applied));
    }
};

enum class Content { flat, smooth, noise };

Case random_case(const Shape& shape, const Kernel& kernel, Content content, std::mt19937& random) {
    std::uniform_real_distribution<float> unit(0, 1);
    Case made{shape, kernel, {}, {}};
    made.images.resize(shape.N * 3 * shape.pixels());
    made.ins.resize(shape.N * shape.K * shape.pixels());
    float value = 100;
    for (float& v : made.images) {
        if (content == Content::noise) value = std::floor(unit(random) * 256);
        if (content == Content::smooth) value = std::fmin(255.0f, std::fmax(0.0f, value + unit(random) * 8 - 4));
        v = value;
    }
    for (float& v : made.ins) v = unit(random) * 2 - 1;
    return made;
}

std::vector<float> filtered(const Case& wanted, const std::string& instruction_set) {
    // Exactly as long as it has to be, so that AddressSanitizer sees the first value beyond.
    std::vector<float> outs(wanted.ins.size(), std::numeric_limits<float>::quiet_NaN());
    outs.shrink_to_fit();
    bilateral::filter_batch(wanted.guide(), wanted.into(outs), instruction_set);
    return outs;
}

std::vector<float> filtered_plainly(const Case& wanted) {
    std::vector<float> outs(wanted.ins.size());
    plain::filter(wanted.guide(), wanted.into(outs));
    return outs;
}

void expect_equal(const Case& wanted, const std::vector<float>& found, const std::vector<float>& expected,
                  const std::string& how) {
    for (std::size_t i = 0; i < found.size(); ++i)
        if (!(found[i] == expected[i]))
            fail(wanted.text() + ", " + how + ": index " + std::to_string(i) + ": expected " +
                 std::to_string(expected[i]) + ", found " + std::to_string(found[i]));
}

// By a single call, and by a lattice that has filtered in place before.
void expect_equal(const Case& wanted, const std::vector<float>& expected, const std::string& instruction_set) {
    expect_equal(wanted, filtered(wanted, instruction_set), expected, instruction_set);
    const bilateral::Lattice lattice(wanted.guide(), instruction_set);
    for (const char* how : {"lattice", "lattice again"}) {
        std::vector<float> outs = wanted.ins;
        lattice.filter({{"ins", outs.data(), outs.size()}, {"outs", outs.data(), outs.size()}, wanted.shape.K,
                        wanted.kernel.applied});
        expect_equal(wanted, outs, expected, instruction_set + " " + how);
    }
}

// Every instruction set and several thread counts against the plain filter.
void check_numbers() {
    std::mt19937 random(1);
    const std::int64_t sizes[][2] = {{1, 1}, {1, 2}, {1, 37}, {37, 1}, {3, 5}, {7, 11}, {16, 16}, {13, 29}, {61, 67}};
    const std::int64_t channels[] = {1, 3, 4, 5, 8, 9, 12, 16, 17, 21, 31, 32, 33, 64, 70, 130};
    // The last ones need more than 32 bits for a vertex.
    constexpr double infinite = std::numeric_limits<double>::infinity();
    const double sigmas[][2] = {{15, 50},   {1000, 1000}, {1000, 0.3},   {2, 3},
                                {0.3, 0.5}, {0.1, 0.1},   {infinite, 5}, {15, infinite}};
    int count = 0;
    for (const auto& [H, W] : sizes)
        for (const auto& [rgb, xy] : sigmas)
            for (const Content content : {Content::flat, Content::smooth, Content::noise}) {
                const std::int64_t K = channels[count % (H * W > 1000 ? 6 : 16)];
                const Case wanted =
                    random_case({1 + count % 3, K, H, W}, {rgb, xy, static_cast<Operator>(count % 3)}, content, random);
                const std::vector<float> expected = filtered_plainly(wanted);
                int threads = count % 4;
                for (const std::string& set : bilateral::instruction_sets()) {
                    set_threads(1 + threads++ % 4);
                    expect_equal(wanted, expected, set);
                }
                ++count;
            }
    // Large enough for several threads to build one lattice together.
    const Case large = random_case({1, 5, 150, 140}, {8, 12}, Content::smooth, random);
    const std::vector<float> expected = filtered_plainly(large);
    for (const int threads : {1, 2, 3, 8}) {
        set_threads(threads);
        expect_equal(large, expected, "");
    }
    std::printf("%d cases agree with the plain filter\n", count + 1);
}

// Every instruction set and several thread counts against the plain inference; Q replaces the logits in half the cases.
void check_mean_field() {
    std::mt19937 random(4);
    const std::int64_t sizes[][2] = {{1, 1}, {1, 19}, {23, 1}, {5, 7}, {17, 35}};
    const std::int64_t classes[] = {1, 2, 8, 9, 16, 21, 24, 25, 33, 50};
    const bilateral::MeanField all_settings[] = {
        {0, 4, 3, 1}, {10, 4, 3, 1}, {3, 0, 2, 2.5}, {3, 5, 0, 1}, {2, -1, 3, 100}, {2, 0, 0, 1}, {4, 300, 100, 0.1}};
    int count = 0;
    for (const auto& [H, W] : sizes)
        for (const bilateral::MeanField& settings : all_settings) {
            Case wanted = random_case({1 + count % 2, classes[count % 10], H, W}, {20, 8}, Content::smooth, random);
            for (float& logit : wanted.ins) logit *= 4;
            std::vector<float> expected(wanted.ins.size());
            plain::mean_field(wanted.guide(), wanted.into(expected), settings);
            for (const std::string& set : bilateral::instruction_sets()) {
                set_threads(1 + count++ % 3);
                std::vector<float> found = wanted.ins;
                bilateral::Channels channels = wanted.into(found);
                if (count % 2 != 0) channels.ins.data = found.data();
                bilateral::mean_field(wanted.guide(), channels, settings, set);
                for (std::size_t i = 0; i < found.size(); ++i)
                    if (!(std::abs(found[i] - expected[i]) < 1e-4))
                        fail(wanted.text() + ", " + set + ": index " + std::to_string(i) + ": expected Q = " +
                             std::to_string(expected[i]) + ", found " + std::to_string(found[i]));
            }
        }
    std::printf("%d inferences agree with the plain mean field\n", count);
}

void check_callers_at_once() {
    std::mt19937 random(2);
    std::vector<Case> cases;
    std::vector<std::vector<float>> expected;
    for (int i = 0; i < 4; ++i) {
        cases.push_back(random_case({3, 5, 30 + i, 23}, {15, 20}, Content::smooth, random));
        expected.push_back(filtered(cases.back(), ""));
    }
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i)
        callers.emplace_back([&, i] {
            for (int times = 0; times < 20; ++times) expect_equal(cases[i], expected[i], "");
        });
    for (std::thread& caller : callers) caller.join();
    std::printf("4 callers at once\n");
}

// The message of the exception that the call throws, or nothing.
std::string error_of(const Case& wanted, const std::string& instruction_set = "") {
    try {
        filtered(wanted, instruction_set);
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
    return "";
}

void expect_error(const Case& wanted, const std::string& expected) {
    for (const std::string& set : bilateral::instruction_sets())
        if (error_of(wanted, set).find(expected) == std::string::npos)
            fail("expected an error with '" + expected + "', found '" + error_of(wanted, set) + "'");
}

void check_errors() {
    std::mt19937 random(3);
    const Case good = random_case({2, 3, 7, 5}, {15, 20}, Content::noise, random);
    Case bad = good;
    bad.images[8] = std::numeric_limits<float>::quiet_NaN();
    expect_error(bad, "images: expected finite values");
    bad = good;
    bad.ins[205] = std::numeric_limits<float>::infinity();
    expect_error(bad, "ins: expected finite values, found inf at index 205");
    bad = good;
    bad.kernel.sigma_xy = 1e-30;
    expect_error(bad, "lattice coordinates too large");
    bad = good;
    bad.kernel.sigma_rgb = 0.01;
    expect_error(bad, "lattice too fine: expected vertices that 62 bits can number, found that they need 73");
    bad = good;
    bad.shape.H = 8;
    expect_error(bad, "images: expected 240 values (N*3*H*W), found 210");
    if (error_of(good, "mmx").find("instruction_set: expected one of") == std::string::npos) fail("unknown set taken");
    std::printf("errors are told\n");
}

// Small calls of every kind. One in 64 is compared with the plain filter, every one with another instruction set.
void fuzz(std::int64_t calls, unsigned seed) {
    std::mt19937 random(seed);
    const auto below = [&](int limit) { return static_cast<int>(random() % static_cast<unsigned>(limit)); };
    const std::vector<std::string> sets = bilateral::instruction_sets();
    using Limits = std::numeric_limits<float>;
    const float strange[] = {Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity(), Limits::max(), -1e30f,
                             1e-40f};
    std::int64_t refused = 0;
    for (std::int64_t call = 0; call < calls; ++call) {
        set_threads(below(256) == 0 ? 2 : 1);
        // In separate statements, as the order in which arguments are evaluated is the compiler's.
        Shape shape;
        for (std::int64_t* size : {&shape.N, &shape.K, &shape.H, &shape.W}) *size = 1 + below(6);
        if (below(32) == 0) shape.K = 1 + below(130);
        if (below(32) == 0) shape.W = 1 + below(60);
        Kernel kernel;
        for (double* sigma : {&kernel.sigma_rgb, &kernel.sigma_xy}) *sigma = std::exp(below(1000) * 0.02 - 6);
        kernel.applied = static_cast<Operator>(below(3));
        Case wanted = random_case(shape, kernel, static_cast<Content>(below(3)), random);
        bool broken = false;
        if (below(8) == 0) {
            std::vector<float>& spoiled = below(2) ? wanted.images : wanted.ins;
            spoiled[random() % spoiled.size()] = strange[below(6)];
            broken = true;
        }
        if (below(64) == 0) {
            std::int64_t& size = below(2) ? wanted.shape.H : wanted.shape.K;
            size += below(3) - 1;
            broken = true;
        }
        const std::string& set = sets[static_cast<std::size_t>(below(static_cast<int>(sets.size())))];
        if (broken) {
            refused += !error_of(wanted, set).empty();
        } else if (error_of(wanted, set).empty()) {
            expect_equal(wanted, call % 64 == 0 ? filtered_plainly(wanted) : filtered(wanted, sets.back()), set);
        } else {
            if (error_of(wanted, set).find("; use larger sigmas") == std::string::npos)
                fail(wanted.text() + ": " + error_of(wanted, set));
            ++refused;
        }
    }
    std::printf("%lld calls, %lld of them refused\n", static_cast<long long>(calls), static_cast<long long>(refused));
}

}  // namespace

int main(int argument_count, char** arguments) {
    std::string sets;
    for (const std::string& name : bilateral::instruction_sets()) sets += " " + name;
    std::printf("instruction sets:%s\n", sets.c_str());
    if (argument_count >= 3 && std::strcmp(arguments[1], "fuzz") == 0) {
        fuzz(std::atoll(arguments[2]), argument_count > 3 ? static_cast<unsigned>(std::atoi(arguments[3])) : 1u);
    } else if (argument_count == 1) {
        check_numbers();
        check_mean_field();
        check_callers_at_once();
        check_errors();
    } else {
        std::fprintf(stderr, "usage: check [fuzz CALLS [SEED]]\n");
        return 2;
    }
    return 0;
}
