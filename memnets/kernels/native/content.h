// Products of heads with a memory of one row of the batch, forward and backward.
//
// A memory is [W, stride] here, so that all loops go over slots, whatever W is. The weights or scores
// of heads are [H, stride], what they look for or read is [H, W]. `span` is the number of slots,
// padded to whole vectors; what stands in the padding takes part.
#pragma once

#include <algorithm>
#include <utility>

#include "common.h"

namespace memnets {

// Call a function for groups of at most 4 heads, with the size of a group as a constant: the
// compiler keeps the sums of a whole group in registers.
template <typename Function>
MEMNETS_INLINE void by_heads(int64_t heads, Function&& run) {
  for (int64_t head = 0; head < heads; head += 4) {
    switch (std::min<int64_t>(4, heads - head)) {
      case 1: run(std::integral_constant<int, 1>(), head); break;
      case 2: run(std::integral_constant<int, 2>(), head); break;
      case 3: run(std::integral_constant<int, 3>(), head); break;
      default: run(std::integral_constant<int, 4>(), head);
    }
  }
}

// [N, W] -> [W, stride], with zeros behind the slots; and back.
template <typename scalar>
void turn_in(int64_t slots, int64_t width, int64_t stride, const scalar* from, scalar* to) {
  for (int64_t w = 0; w < width; w++) {
    for (int64_t i = 0; i < slots; i++) to[w * stride + i] = from[i * width + w];
    for (int64_t i = slots; i < stride; i++) to[w * stride + i] = 0;
  }
}

template <typename scalar>
void turn_out(int64_t slots, int64_t width, int64_t stride, const scalar* from, scalar* to) {
  for (int64_t i = 0; i < slots; i++) {
    for (int64_t w = 0; w < width; w++) to[i * width + w] = from[w * stride + i];
  }
}

// The sizes of a memory and of its heads.
struct Grid {
  int64_t heads, width, span, stride;
};

// sum_w keys_h(w) M(w) of all slots: calls `finish(head, i, product)` for each head and each vector of
// slots, from slot i on.
template <typename scalar, typename Finish>
MEMNETS_INLINE void products(const Grid& grid, const scalar* __restrict keys,
                             const scalar* __restrict memory, Finish finish) {
  const auto [heads, width, span, stride] = grid;
  by_heads(heads, [&, width = width, span = span, stride = stride](auto group, int64_t first) {
    constexpr int H = decltype(group)::value;
    const scalar* key = keys + first * width;
    blocks<scalar>(span, [&](auto vectors, int64_t i) {
      constexpr int V = decltype(vectors)::value;
      constexpr int64_t L = lanes<scalar>;
      Vector<scalar> total[H][V] = {};
      for (int64_t w = 0; w < width; w++) {
        for (int v = 0; v < V; v++) {
          const Vector<scalar> number = load(memory + w * stride + i + v * L);
          for (int h = 0; h < H; h++) total[h][v] += key[h * width + w] * number;
        }
      }
      for (int h = 0; h < H; h++) {
        for (int v = 0; v < V; v++) finish(first + h, i + v * L, total[h][v]);
      }
    });
  });
}

// out_h += sum_w keys_h(w) M(w), for all slots.
template <typename scalar>
void add_products(const Grid& grid, const scalar* __restrict keys,
                  const scalar* __restrict memory, scalar* __restrict out) {
  products(grid, keys, memory, [&](int64_t head, int64_t i, Vector<scalar> product) {
    scalar* to = out + head * grid.stride + i;
    store(to, load(to) + product);
  });
}

// Backward of add_products: `flow` is the gradient of the scores. That of the keys is set, that of
// the memory is added.
template <typename scalar>
void products_gradient(const Grid& grid, const scalar* __restrict keys,
                       const scalar* __restrict memory, const scalar* __restrict flow,
                       scalar* __restrict of_keys, scalar* __restrict of_memory) {
  const auto [heads, width, span, stride] = grid;
  by_heads(heads, [&, width = width, span = span, stride = stride](auto group, int64_t first) {
    constexpr int H = decltype(group)::value;
    for (int64_t w = 0; w < width; w++) {
      const scalar *row = memory + w * stride, *by = flow + first * stride;
      scalar* of_row = of_memory + w * stride;
      scalar key[H];
      for (int h = 0; h < H; h++) key[h] = keys[(first + h) * width + w];
      Vector<scalar> total[H] = {};
      for (int64_t i = 0; i < span; i += lanes<scalar>) {
        const Vector<scalar> number = load(row + i);
        Vector<scalar> now = load(of_row + i);
        for (int h = 0; h < H; h++) {
          const Vector<scalar> one = load(by + h * stride + i);
          total[h] += one * number;
          now += one * key[h];
        }
        store(of_row + i, now);
      }
      for (int h = 0; h < H; h++) of_keys[(first + h) * width + w] = sum<scalar>(total[h]);
    }
  });
}

// r_h(w) = sum_i w_h(i) M(i, w).
template <typename scalar>
void read_vectors(const Grid& grid, const scalar* __restrict weights,
                  const scalar* __restrict memory, scalar* __restrict vectors) {
  const auto [heads, width, span, stride] = grid;
  by_heads(heads, [&, width = width, span = span, stride = stride](auto group, int64_t first) {
    constexpr int H = decltype(group)::value;
    const scalar* by = weights + first * stride;
    for (int64_t w = 0; w < width; w++) {
      Vector<scalar> total[H] = {};
      for (int64_t i = 0; i < span; i += lanes<scalar>) {
        const Vector<scalar> number = load(memory + w * stride + i);
        for (int h = 0; h < H; h++) total[h] += load(by + h * stride + i) * number;
      }
      for (int h = 0; h < H; h++) vectors[(first + h) * width + w] = sum<scalar>(total[h]);
    }
  });
}

// Backward of read_vectors: that of the weights is set, that of the memory is added.
template <typename scalar>
void read_gradient(const Grid& grid, const scalar* __restrict weights,
                   const scalar* __restrict memory, const scalar* __restrict of_vectors,
                   scalar* __restrict of_weights, scalar* __restrict of_memory) {
  const auto [heads, width, span, stride] = grid;
  by_heads(heads, [&, width = width, span = span, stride = stride](auto group, int64_t first) {
    constexpr int H = decltype(group)::value;
    const scalar* given = of_vectors + first * width;
    for (int64_t i = 0; i < span; i += lanes<scalar>) {
      Vector<scalar> weight[H], total[H] = {};
      for (int h = 0; h < H; h++) weight[h] = load(weights + (first + h) * stride + i);
      for (int64_t w = 0; w < width; w++) {
        const Vector<scalar> number = load(memory + w * stride + i);
        Vector<scalar> now = load(of_memory + w * stride + i);
        for (int h = 0; h < H; h++) {
          total[h] += given[h * width + w] * number;
          now += given[h * width + w] * weight[h];
        }
        store(of_memory + w * stride + i, now);
      }
      for (int h = 0; h < H; h++) store(of_weights + (first + h) * stride + i, total[h]);
    }
  });
}

}  // namespace memnets
