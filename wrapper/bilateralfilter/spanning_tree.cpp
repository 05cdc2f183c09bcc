// Minimum spanning trees of the pixels of images, and filters along them; compiled once for each instruction set.
//
// Song et al., "Learnable Tree Filter for Structure-preserving Feature Transform", NeurIPS 2019.

#include "spanning_tree.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "channel_block.hpp"
#include "parallel.hpp"
#include "vectors.hpp"

namespace bilateral::BILATERAL_TARGET {
namespace {

// Order numbers by keys of 32 bits, the first of equal ones first: a radix sort, from the lowest 11 bits upwards.
struct Keyed {
    std::uint32_t key;
    std::int32_t number;
};

void sort_by_key(std::vector<Keyed>& elements, std::vector<Keyed>& other) {
    constexpr int bits = 11, buckets = 1 << bits;
    other.resize(elements.size());
    for (int shift = 0; shift < 32; shift += bits) {
        std::array<std::size_t, buckets + 1> start{};
        for (const Keyed& element : elements) ++start[(element.key >> shift & (buckets - 1)) + 1];
        for (int bucket = 0; bucket < buckets; ++bucket) start[bucket + 1] += start[bucket];
        for (const Keyed& element : elements) other[start[element.key >> shift & (buckets - 1)]++] = element;
        elements.swap(other);
    }
}

// Which pixels are connected: a forest in which each component has a root.
class Components {
 public:
    explicit Components(std::int32_t count) : parents_(static_cast<std::size_t>(count)) {
        for (std::int32_t i = 0; i < count; ++i) parents_[i] = i;
    }

    // Return whether they were apart.
    bool join(std::int32_t one, std::int32_t other) {
        one = root(one);
        other = root(other);
        parents_[std::max(one, other)] = std::min(one, other);
        return one != other;
    }

 private:
    std::int32_t root(std::int32_t i) {
        while (parents_[i] != i) i = parents_[i] = parents_[parents_[i]];
        return i;
    }

    std::vector<std::int32_t> parents_;
};

// The channels of all pixels at their places in the tree, [place][channel].
using Table = std::vector<float>;

struct Workspace {
    Table values, results, gradients, gradient_results;
    std::vector<float> weights;
};

// The minimum spanning tree of an image. Its pixels have places: every pixel comes behind its parent, and mostly right
// behind it, so that a walk along the places reads memory in order.
class SpanningTree {
 public:
    void build(const Grid& grid, const float* lengths) {
        const auto height = static_cast<std::int32_t>(grid.H), width = static_cast<std::int32_t>(grid.W);
        pixels_ = height * width;
        const std::int32_t to_the_right = height * (width - 1), edges = static_cast<std::int32_t>(grid.edges());

        // Kruskal's algorithm. Numbers that are not negative are in the order of their bits.
        std::vector<Keyed> sorted(static_cast<std::size_t>(edges)), other;
        for (std::int32_t edge = 0; edge < edges; ++edge) {
            std::memcpy(&sorted[edge].key, lengths + edge, sizeof(float));
            sorted[edge].number = edge;
        }
        sort_by_key(sorted, other);
        Components components(pixels_);
        constexpr std::uint8_t right = 1, below = 2;
        std::vector<std::uint8_t> taken(static_cast<std::size_t>(pixels_));  // which edges of a pixel
        std::int32_t left_to_take = pixels_ - 1;
        for (auto edge = sorted.begin(); left_to_take > 0; ++edge) {
            const std::int32_t number = edge->number;
            const bool horizontal = number < to_the_right;
            const std::int32_t pixel = horizontal ? number + number / (width - 1) : number - to_the_right;
            if (!components.join(pixel, pixel + (horizontal ? 1 : width))) continue;
            taken[pixel] |= horizontal ? right : below;
            --left_to_take;
        }

        // Depth first from the first pixel.
        places_.resize(static_cast<std::size_t>(pixels_));
        parents_.resize(static_cast<std::size_t>(pixels_));
        edges_.resize(static_cast<std::size_t>(pixels_));
        struct Step {
            std::int32_t pixel, parent, edge;
        };
        std::vector<Step> ahead{{0, 0, 0}};
        for (std::int32_t place = 0; place < pixels_; ++place) {
            const auto [pixel, parent, edge] = ahead.back();
            ahead.pop_back();
            places_[pixel] = place;
            parents_[place] = parent;
            edges_[place] = edge;
            const auto visit = [&, from = edge, root = place == 0, place = place](std::int32_t next, std::int32_t by) {
                if (root || by != from) ahead.push_back({next, place, by});
            };
            const std::int32_t row = pixel / width, column = pixel % width;
            if (taken[pixel] & below) visit(pixel + width, to_the_right + pixel);
            if (taken[pixel] & right) visit(pixel + 1, pixel - row);
            if (row > 0 && taken[pixel - width] & below) visit(pixel - width, to_the_right + pixel - width);
            if (column > 0 && taken[pixel - 1] & right) visit(pixel - 1, pixel - 1 - row);
        }
    }

    [[nodiscard]] std::int32_t pixels() const { return pixels_; }

    // Write the means of at most max_channels - 1 channels, at least Width - channel_step, and the masses unless these
    // are null: in and out are [channel][pixel].
    template <int Width>
    void filter(const float* in, const float* weights, float* out, float* masses, int channels,
                Workspace& workspace) const {
        if constexpr (Width < max_channels)
            if (channels >= Width)
                return filter<Width + channel_step>(in, weights, out, masses, channels, workspace);
        Table& values = workspace.values;
        gather<Width>(in, channels, values, [&](ChannelBlock<Width>& block, std::int32_t, int points) {
            for (int p = 0; p < points; ++p) block.value[p][channels] = 1;  // whose sum is the mass
        });
        sum_along_tree<Width>(weights, workspace);
        scatter<Width>(values, out, channels, [&](ChannelBlock<Width>& block, std::int32_t first, int points) {
            for (int p = 0; p < points; ++p) {
                const float mass = block.value[p][channels];
                if (masses != nullptr) masses[first + p] = mass;
                for (int c = 0; c < Width; ++c) block.value[p][c] /= mass;
            }
        });
    }

    // The transposed operator, with the masses given.
    template <int Width>
    void filter_transposed(const float* in, const float* weights, const float* masses, float* out, int channels,
                           Workspace& workspace) const {
        if constexpr (Width < max_channels)
            if (channels > Width)
                return filter_transposed<Width + channel_step>(in, weights, masses, out, channels, workspace);
        gather<Width>(in, channels, workspace.values, [&](ChannelBlock<Width>& block, std::int32_t first, int points) {
            for (int p = 0; p < points; ++p)
                for (int c = 0; c < Width; ++c) block.value[p][c] /= masses[first + p];
        });
        sum_along_tree<Width>(weights, workspace);
        scatter<Width>(workspace.values, out, channels, [](ChannelBlock<Width>&, std::int32_t, int) {});
    }

    // Add to out, by edge, the gradient with respect to the weights, of so many channels.
    //
    // Paths through an edge join what is below it to what is beyond it, in both directions.
    template <int Width>
    void add_edge_gradient(const float* in, const float* weights, const float* gradient, float* out, int channels,
                           Workspace& workspace) const {
        if constexpr (Width < max_channels)
            if (channels > Width)
                return add_edge_gradient<Width + channel_step>(in, weights, gradient, out, channels, workspace);
        auto& [values, results, gradients, gradient_results, ordered] = workspace;
        order_weights(weights, ordered);
        const auto sum = [&, &ordered = ordered](const float* from, Table& inwards, Table& all) {
            gather<Width>(from, channels, inwards, [](ChannelBlock<Width>&, std::int32_t, int) {});
            sum_inwards<Width>(ordered, inwards);
            all.resize(inwards.size());
            sum_outwards<Width>(ordered, inwards.data(), all.data());
        };
        sum(in, values, results);
        sum(gradient, gradients, gradient_results);
        for (std::int32_t place = 1; place < pixels_; ++place) {
            const float weight = ordered[place];
            const float *value = row<Width>(values.data(), place), *slope = row<Width>(gradients.data(), place);
            const float* beyond = row<Width>(results.data(), parents_[place]);
            const float* slope_beyond = row<Width>(gradient_results.data(), parents_[place]);
            using V = Vector<float, channel_step>;
            V total{};
            for (int c = 0; c < Width; c += channel_step) {
                const V here = load<V>(value + c), slope_here = load<V>(slope + c);
                total += slope_here * (load<V>(beyond + c) - weight * here);
                total += here * (load<V>(slope_beyond + c) - weight * slope_here);
            }
            for (int lane = 0; lane < channel_step; ++lane) out[edges_[place]] += total[lane];
        }
    }

 private:
    template <int Width, class T>
    static T* row(T* table, std::int32_t place) {
        return table + static_cast<std::size_t>(place) * Width;
    }

    // By place, that of the edge to the parent; 0 at the root.
    void order_weights(const float* weights, std::vector<float>& ordered) const {
        ordered.resize(static_cast<std::size_t>(pixels_));
        ordered[0] = 0;
        for (std::int32_t place = 1; place < pixels_; ++place) ordered[place] = weights[edges_[place]];
    }

    // Move channels to the places of the pixels, and back; change(block, first pixel, points) changes them on the way.
    template <int Width, class Change>
    void gather(const float* in, int channels, Table& values, const Change& change) const {
        values.resize(static_cast<std::size_t>(pixels_) * Width);
        ChannelBlock<Width> block;
        for (std::int32_t first = 0; first < pixels_; first += block_size) {
            const int points = std::min(block_size, pixels_ - first);
            block.gather(in + first, channels, pixels_, points);
            change(block, first, points);
            for (int p = 0; p < points; ++p)
                std::memcpy(row<Width>(values.data(), places_[first + p]), block.value[p], sizeof block.value[p]);
        }
    }

    template <int Width, class Change>
    void scatter(const Table& values, float* out, int channels, const Change& change) const {
        ChannelBlock<Width> block;
        for (std::int32_t first = 0; first < pixels_; first += block_size) {
            const int points = std::min(block_size, pixels_ - first);
            for (int p = 0; p < points; ++p)
                std::memcpy(block.value[p], row<Width>(values.data(), places_[first + p]), sizeof block.value[p]);
            change(block, first, points);
            block.scatter(out + first, channels, pixels_, points);
        }
    }

    template <int Width>
    void sum_along_tree(const float* weights, Workspace& workspace) const {
        order_weights(weights, workspace.weights);
        sum_inwards<Width>(workspace.weights, workspace.values);
        sum_outwards<Width>(workspace.weights, workspace.values.data(), workspace.values.data());
    }

    // From the leaves to the root: what comes in from below every pixel.
    template <int Width>
    void sum_inwards(const std::vector<float>& weights, Table& values) const {
        for (std::int32_t place = pixels_ - 1; place > 0; --place) {
            const float* value = row<Width>(values.data(), place);
            float* parent = row<Width>(values.data(), parents_[place]);
            const float weight = weights[place];
            for_channel_vectors<Width>([&](int c, auto zero) {
                using V = decltype(zero);
                store(parent + c, load<V>(parent + c) + weight * load<V>(value + c));
            });
        }
    }

    // From the root to the leaves: the parent's sum has the part from below a pixel already. `result` may be `inwards`.
    template <int Width>
    void sum_outwards(const std::vector<float>& weights, const float* inwards, float* result) const {
        for (std::int32_t place = 0; place < pixels_; ++place) {
            const float* parent = row<Width>(static_cast<const float*>(result), parents_[place]);
            const float weight = weights[place], rest = 1 - weight * weight;
            for_channel_vectors<Width>([&](int c, auto zero) {
                using V = decltype(zero);
                const V inward = load<V>(row<Width>(inwards, place) + c);
                // The root, without a parent, has a weight of 0, but its result is not there yet.
                const V outer = place > 0 ? weight * load<V>(parent + c) : zero;
                store(row<Width>(result, place) + c, rest * inward + outer);
            });
        }
    }

    std::int32_t pixels_ = 0;
    std::vector<std::int32_t> places_;   // by pixel
    std::vector<std::int32_t> parents_;  // by place, the parent's place
    std::vector<std::int32_t> edges_;    // by place, the edge to the parent
};

class ForestOfBatch : public BuiltForest {
 public:
    ForestOfBatch(const Grid& grid, const Input& lengths, int threads)
        : edges_(grid.edges()), trees_(static_cast<std::size_t>(grid.N)) {
        parallel_for(grid.N, threads, [&](std::int64_t n, int) {
            trees_[static_cast<std::size_t>(n)].build(grid, lengths.data + n * edges_);
        });
    }

    void filter(const TreeValues& values, const Output& outs, const Output& masses, int threads) const override {
        for_shares(values, outs, threads, max_channels - 1,
                   [&](const SpanningTree& tree, const Share& share, Workspace& workspace) {
                       float* own = share.first ? masses.data + share.image * tree.pixels() : nullptr;
                       tree.filter<channel_step>(share.in, share.weights, share.out, own, share.channels, workspace);
                   });
    }

    void filter_transposed(const TreeValues& values, const Input& masses, const Output& outs,
                           int threads) const override {
        for_shares(values, outs, threads, max_channels,
                   [&](const SpanningTree& tree, const Share& share, Workspace& workspace) {
                       tree.filter_transposed<channel_step>(share.in, share.weights,
                                                            masses.data + share.image * tree.pixels(), share.out,
                                                            share.channels, workspace);
                   });
    }

    void edge_gradient(const TreeValues& values, const Input& gradients, const Output& outs,
                       int threads) const override {
        std::fill_n(outs.data, outs.length, 0.0f);
        std::vector<Workspace> workspaces(static_cast<std::size_t>(threads));
        parallel_for(static_cast<std::int64_t>(trees_.size()), threads, [&](std::int64_t n, int thread) {
            const SpanningTree& tree = trees_[static_cast<std::size_t>(n)];
            for (std::int64_t first = 0; first < values.K; first += max_channels) {
                const std::int64_t offset = (n * values.K + first) * tree.pixels();
                tree.add_edge_gradient<channel_step>(
                    values.ins.data + offset, values.weights.data + n * edges_, gradients.data + offset,
                    outs.data + n * edges_, static_cast<int>(std::min<std::int64_t>(max_channels, values.K - first)),
                    workspaces[static_cast<std::size_t>(thread)]);
            }
        });
    }

 private:
    // Some channels of an image.
    struct Share {
        std::int64_t image;
        bool first;
        const float *in, *weights;
        float* out;
        int channels;
    };

    // Call filter(tree, share, workspace) for all channels of all images, at most so many at once, but in enough shares
    // for every thread.
    template <class Filter>
    void for_shares(const TreeValues& values, const Output& outs, int threads, std::int64_t at_once,
                    const Filter& filter) const {
        const std::int64_t images = static_cast<std::int64_t>(trees_.size()), K = values.K;
        const std::int64_t shares = std::min(K, std::max((K + at_once - 1) / at_once, threads / images));
        std::vector<Workspace> workspaces(static_cast<std::size_t>(threads));
        parallel_for(images * shares, threads, [&](std::int64_t task, int thread) {
            const std::int64_t n = task / shares, share = task % shares;
            const std::int64_t first = K * share / shares, last = K * (share + 1) / shares;
            const SpanningTree& tree = trees_[static_cast<std::size_t>(n)];
            const std::int64_t offset = (n * K + first) * tree.pixels();
            filter(tree,
                   Share{n, share == 0, values.ins.data + offset, values.weights.data + n * edges_, outs.data + offset,
                         static_cast<int>(last - first)},
                   workspaces[static_cast<std::size_t>(thread)]);
        });
    }

    std::int64_t edges_;
    std::vector<SpanningTree> trees_;
};

}  // namespace

std::unique_ptr<const BuiltForest> build_forest(const Grid& grid, const Input& lengths, int threads) {
    return std::make_unique<ForestOfBatch>(grid, lengths, threads);
}

}  // namespace bilateral::BILATERAL_TARGET
