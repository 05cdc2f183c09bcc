// The tests of the sums along trees and over windows, made and run as check.cpp is: against the formulas, pair by pair.
//
// Exit status 0 if all is well; otherwise 1 and what failed.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "../bilateralfilter.hpp"
#include "checking.hpp"

namespace {

using Numbers = std::vector<float>;
using bilateral::Grid;

bilateral::Input input(const char* name, const Numbers& numbers) { return {name, numbers.data(), numbers.size()}; }
bilateral::Output output(const char* name, Numbers& numbers) { return {name, numbers.data(), numbers.size()}; }

// Exactly as long as it has to be, so that AddressSanitizer sees the first value beyond.
Numbers unwritten(std::int64_t count) {
    Numbers made(static_cast<std::size_t>(count), std::numeric_limits<float>::quiet_NaN());
    made.shrink_to_fit();
    return made;
}

Numbers random_numbers(std::int64_t count, float low, float high, std::mt19937& random) {
    std::uniform_real_distribution<float> range(low, high);
    Numbers made = unwritten(count);
    for (float& number : made) number = range(random);
    return made;
}

void expect_close(const std::string& what, const Numbers& found, const std::vector<double>& expected) {
    double largest = 0;
    for (const double number : expected) largest = std::max(largest, std::fabs(number));
    for (std::size_t i = 0; i < expected.size(); ++i)
        if (!(std::fabs(found[i] - expected[i]) <= 2e-5 * largest + 1e-12))
            fail(what + ": index " + std::to_string(i) + ": expected " + std::to_string(expected[i]) + ", found " +
                 std::to_string(found[i]));
}

// Trees --------------------------------------------------------------------------------------------------------------

// The pixels at both ends of every edge.
std::vector<std::pair<int, int>> ends_of_edges(const Grid& grid) {
    std::vector<std::pair<int, int>> ends;
    const int height = static_cast<int>(grid.H), width = static_cast<int>(grid.W);
    for (int y = 0; y < height; ++y)
        for (int x = 0; x + 1 < width; ++x) ends.emplace_back(y * width + x, y * width + x + 1);
    for (int y = 0; y + 1 < height; ++y)
        for (int x = 0; x < width; ++x) ends.emplace_back(y * width + x, (y + 1) * width + x);
    return ends;
}

// Which edges make an image's tree: the shortest first, unless its ends are connected already.
std::vector<bool> plain_tree(const Grid& grid, const float* lengths) {
    const auto ends = ends_of_edges(grid);
    std::vector<int> order(ends.size()), component(static_cast<std::size_t>(grid.pixels()));
    std::iota(order.begin(), order.end(), 0);
    std::iota(component.begin(), component.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return lengths[a] < lengths[b]; });
    std::vector<bool> taken(ends.size());
    for (const int edge : order) {
        const int one = component[ends[edge].first], other = component[ends[edge].second];
        if (one == other) continue;
        taken[edge] = true;
        std::replace(component.begin(), component.end(), other, one);
    }
    return taken;
}

// Call visit(i, j, w_ij, edges on the path) for every two pixels of an image.
template <class Visit>
void for_paths(const Grid& grid, const std::vector<bool>& taken, const float* weights, const Visit& visit) {
    const auto ends = ends_of_edges(grid);
    std::vector<std::vector<std::pair<int, int>>> neighbours(static_cast<std::size_t>(grid.pixels()));
    for (std::size_t edge = 0; edge < ends.size(); ++edge) {
        if (!taken[edge]) continue;
        neighbours[ends[edge].first].emplace_back(ends[edge].second, static_cast<int>(edge));
        neighbours[ends[edge].second].emplace_back(ends[edge].first, static_cast<int>(edge));
    }
    std::vector<int> path;
    const std::function<void(int, int, int, double)> walk = [&](int from, int pixel, int before, double product) {
        visit(from, pixel, product, path);
        for (const auto& [next, edge] : neighbours[pixel]) {
            if (next == before) continue;
            path.push_back(edge);
            walk(from, next, pixel, product * weights[edge]);
            path.pop_back();
        }
    };
    for (int i = 0; i < grid.pixels(); ++i) walk(i, i, -1, 1);
}

void check_tree(const Grid& grid, std::int64_t K, const Numbers& lengths, std::mt19937& random) {
    const std::string what = std::to_string(grid.N) + " trees of " + std::to_string(grid.H) + " x " +
                             std::to_string(grid.W) + ", " + std::to_string(K) + " channels";
    const std::int64_t P = grid.pixels(), E = grid.edges();
    const Numbers ins = random_numbers(grid.N * K * P, -1, 1, random);
    const Numbers weights = random_numbers(grid.N * E, 0, 1, random);
    const Numbers gradients = random_numbers(grid.N * K * P, -1, 1, random);
    std::vector<double> sums(ins.size()), slopes(weights.size()), masses(static_cast<std::size_t>(grid.N * P));
    for (std::int64_t n = 0; n < grid.N; ++n) {
        const float* own = weights.data() + n * E;
        for_paths(grid, plain_tree(grid, lengths.data() + n * E), own,
                  [&](int i, int j, double product, const std::vector<int>& path) {
                      masses[n * P + i] += product;
                      double dot = 0;
                      for (std::int64_t plane = n * K; plane < (n + 1) * K; ++plane) {
                          sums[plane * P + i] += product * ins[plane * P + j];
                          dot += static_cast<double>(gradients[plane * P + i]) * ins[plane * P + j];
                      }
                      for (const int edge : path) slopes[n * E + edge] += dot * product / own[edge];
                  });
    }
    std::vector<double> means = sums;
    Numbers scaled = ins;  // filtered by the transposed operator this gives the sums
    for (std::int64_t i = 0; i < grid.N * K * P; ++i) {
        means[i] /= masses[i / (K * P) * P + i % P];
        scaled[i] *= static_cast<float>(masses[i / (K * P) * P + i % P]);
    }
    const bilateral::TreeValues values{input("ins", ins), input("weights", weights), K};
    std::vector<Numbers> first;
    int threads = 1;
    for (const std::string& set : bilateral::instruction_sets()) {
        set_threads(threads++);
        const bilateral::SpanningForest forest(grid, input("lengths", lengths), set);
        std::vector<Numbers> found{unwritten(grid.N * K * P), unwritten(grid.N * P), unwritten(grid.N * K * P),
                                   unwritten(grid.N * E)};
        forest.filter(values, output("outs", found[0]), output("masses", found[1]));
        forest.filter_transposed({input("ins", scaled), input("weights", weights), K}, input("masses", found[1]),
                                 output("outs", found[2]));
        forest.edge_gradient(values, input("gradients", gradients), output("outs", found[3]));
        expect_close(what + ", means", found[0], means);
        expect_close(what + ", masses", found[1], masses);
        expect_close(what + ", transposed", found[2], sums);
        expect_close(what + ", gradient", found[3], slopes);

        Numbers in_place = ins, in_place_transposed = scaled, again = found[1];
        forest.filter({input("ins", in_place), input("weights", weights), K}, output("outs", in_place),
                      output("masses", again));
        forest.filter_transposed({input("ins", in_place_transposed), input("weights", weights), K},
                                 input("masses", again), output("outs", in_place_transposed));
        if (in_place != found[0] || in_place_transposed != found[2]) fail(what + ": in place it differs");
        if (first.empty()) first = found;
        if (found != first) fail(what + ": instruction sets differ");
    }
}

void check_trees() {
    std::mt19937 random(1);
    const std::int64_t sizes[][2] = {{1, 1}, {1, 2}, {2, 1}, {1, 37}, {37, 1}, {3, 5}, {7, 11}, {16, 16}};
    const std::int64_t channels[] = {1, 3, 4, 5, 8, 21, 24, 25, 49, 150};
    int count = 0;
    for (const auto& [H, W] : sizes)
        for (const int levels : {0, 3, 1 << 20})  // 0: all edges are alike
            for (int times = 0; times < 3; ++times) {
                const Grid grid{1 + count % 3, H, W};
                Numbers lengths = unwritten(grid.N * grid.edges());
                for (float& length : lengths) length = static_cast<float>(random() % (levels + 1));
                check_tree(grid, channels[count++ % 10], lengths, random);
            }
    std::printf("%d batches of trees agree with the sums along paths\n", count);
}

// Windows ------------------------------------------------------------------------------------------------------------

struct WindowCase {
    bilateral::Window window;
    std::int64_t K = 1;
    Numbers images, regions, ins;

    WindowCase(std::int64_t N, std::int64_t channels, std::int64_t H, std::int64_t W, std::int64_t radius,
               std::mt19937& random)
        : K(channels),
          images(random_numbers(N * 3 * H * W, -2, 2, random)),
          regions(random_numbers(N * H * W, 0, 1, random)),
          ins(random_numbers(N * K * H * W, -1, 1, random)) {
        for (float& inside : regions) inside = std::round(inside);
        window = {input("images", images), input("regions", regions), N, H, W, radius, 0.7, 3, 0.4, 2};
    }

    void filter(Numbers& outs, Numbers& masses, const std::string& set = "") const {
        outs = unwritten(window.N * K * window.H * window.W);
        masses = unwritten(window.N * window.H * window.W);
        bilateral::filter_window(window, {input("ins", ins), output("outs", outs), output("masses", masses), K}, set);
    }
};

void check_window(const WindowCase& wanted) {
    const auto& [images, regions, N, H, W, radius, sigma_rgb, sigma_xy, smoothness_weight, smoothness_xy] =
        wanted.window;
    const std::int64_t P = H * W;
    std::vector<double> sums(wanted.ins.size()), masses(wanted.regions.size());
    for (std::int64_t n = 0; n < N; ++n)
        for (std::int64_t i = 0; i < P; ++i)
            for (std::int64_t j = 0; j < P; ++j) {
                const std::int64_t dy = i / W - j / W, dx = i % W - j % W;
                if (i == j || std::max(std::abs(dy), std::abs(dx)) > radius) continue;
                double colours = 0;
                const double square = static_cast<double>(dy * dy + dx * dx);
                for (std::int64_t plane = 3 * n; plane < 3 * n + 3; ++plane) {
                    const double here = images.data[plane * P + i], there = images.data[plane * P + j];
                    colours += (here - there) * (here - there);
                }
                const double weight =
                    (std::exp(-colours / (2 * sigma_rgb * sigma_rgb) - square / (2 * sigma_xy * sigma_xy)) +
                     smoothness_weight * std::exp(-square / (2 * smoothness_xy * smoothness_xy))) *
                    (regions.data[n * P + i] + regions.data[n * P + j]);
                masses[n * P + i] += weight;
                for (std::int64_t plane = n * wanted.K; plane < (n + 1) * wanted.K; ++plane)
                    sums[plane * P + i] += weight * wanted.ins[plane * P + j];
            }
    const std::string what = "window of " + std::to_string(radius) + " in " + std::to_string(H) + " x " +
                             std::to_string(W) + ", " + std::to_string(wanted.K) + " channels";
    Numbers first, outs, found;
    int threads = 1;
    for (const std::string& set : bilateral::instruction_sets()) {
        set_threads(threads++);
        wanted.filter(outs, found, set);
        expect_close(what + ", sums", outs, sums);
        expect_close(what + ", masses", found, masses);
        if (first.empty()) first = outs;
        if (outs != first) fail(what + ": instruction sets differ");
    }
}

void check_windows() {
    std::mt19937 random(2);
    const std::int64_t sizes[][2] = {{1, 1}, {1, 2}, {1, 37}, {37, 1}, {3, 5}, {7, 11}, {16, 16}, {13, 29}};
    const std::int64_t channels[] = {1, 3, 4, 5, 21, 150};
    int count = 0;
    for (const auto& [H, W] : sizes)
        for (const std::int64_t radius : {std::int64_t(1), std::int64_t(2), std::int64_t(5), std::int64_t(1) << 40}) {
            WindowCase wanted(1 + count % 3, channels[count % 6], H, W, radius, random);
            if (count % 4 == 3) wanted.window.sigma_xy = std::numeric_limits<double>::infinity();  // leaves its term out
            check_window(wanted);
            ++count;
        }
    std::printf("%d windows agree with the sums over pairs\n", count);
}

// Both ----------------------------------------------------------------------------------------------------------------

void check_callers_at_once() {
    std::mt19937 random(3);
    const WindowCase window(2, 5, 23, 31, 3, random);
    const Grid grid{2, 23, 31};
    const Numbers lengths = random_numbers(grid.N * grid.edges(), 0, 1, random);
    const bilateral::SpanningForest forest(grid, input("lengths", lengths));
    const auto run = [&] {
        std::pair<Numbers, Numbers> found;
        window.filter(found.first, found.second);
        found.second = unwritten(grid.N * 5 * grid.pixels());
        Numbers masses = unwritten(grid.N * grid.pixels());
        forest.filter({input("ins", window.ins), input("weights", lengths), 5}, output("outs", found.second),
                      output("masses", masses));
        return found;
    };
    const auto expected = run();
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i)
        callers.emplace_back([&] {
            for (int times = 0; times < 20; ++times)
                if (run() != expected) fail("callers disturb each other");
        });
    for (std::thread& caller : callers) caller.join();
    std::printf("4 callers at once\n");
}

template <class Call>
void expect_error(const std::string& expected, const Call& call) {
    std::string found;
    try {
        call();
    } catch (const std::invalid_argument& error) {
        found = error.what();
    }
    if (found.find(expected) == std::string::npos)
        fail("expected an error with '" + expected + "', found '" + found + "'");
}

void check_errors() {
    std::mt19937 random(4);
    WindowCase window(1, 2, 3, 5, 2, random);
    Numbers outs, masses;
    const auto filter = [&] { window.filter(outs, masses); };
    window.window.radius = 0;
    expect_error("radius: expected a positive number, found 0", filter);
    window.window.radius = 1;
    window.window.smoothness_weight = -1;
    expect_error("smoothness_weight: expected 0 or more", filter);
    window.window.smoothness_weight = 0;
    window.window.sigma_rgb = 0;
    expect_error("sigma_rgb: expected a positive number", filter);
    window.window.sigma_rgb = 1;
    window.window.H = 4;
    expect_error("images: expected 60 values (N*3*H*W), found 45", filter);

    Numbers lengths(22), ins(30);
    using bilateral::SpanningForest;
    expect_error("lengths: expected 31 values (N*(H*(W-1)+(H-1)*W)), found 22",
                 [&] { SpanningForest({1, 4, 5}, input("lengths", lengths)); });
    expect_error("W: expected a positive number, found 0",
                 [&] { SpanningForest({1, 3, 0}, input("lengths", lengths)); });
    expect_error("H, W: expected less than 2^30 pixels", [&] {
        SpanningForest({1, std::int64_t(1) << 40, std::int64_t(1) << 40}, input("lengths", lengths));
    });
    const SpanningForest forest({1, 3, 5}, input("lengths", lengths));
    expect_error("ins: expected 45 values (N*K*H*W), found 30", [&] {
        forest.filter({input("ins", ins), input("weights", lengths), 3}, output("outs", outs),
                      output("masses", masses));
    });
    expect_error("outs: expected memory of its own, found that it overlaps weights", [&] {
        forest.edge_gradient({input("ins", ins), input("weights", lengths), 2}, input("gradients", ins),
                             output("outs", lengths));
    });
    std::printf("errors are told\n");
}

}  // namespace

int main() {
    check_trees();
    check_windows();
    check_callers_at_once();
    check_errors();
    return 0;
}
