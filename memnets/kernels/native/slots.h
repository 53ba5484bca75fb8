// A memory of N slots of width W whose heads look for keys by cosine, with a strength: the part of
// a step that the NTM and the memory with least recently used access share.
//
// The interface begins with the keys of all heads, then come their strengths. The state begins with
// the memory, kept as [W, N], so that all loops go over slots, whatever W is; behind it stand the
// inverse lengths of the slots. Rows over the slots are padded: `stride` numbers each.
#pragma once

#include <algorithm>
#include <cmath>

#include "content.h"
#include "memory.h"

namespace memnets {

template <typename scalar>
struct Slots : Memory<scalar> {
  typedef Vector<scalar> vector;
  static constexpr int64_t L = lanes<scalar>;

  int64_t heads, width, slots, stride;
  scalar epsilon;
  int64_t positive;  // where the strengths begin in the interface
  int64_t lengths;   // where the inverse lengths begin in the state

  Slots(int64_t heads, int64_t width, int64_t slots, double epsilon)
      : heads(heads), width(width), slots(slots), stride(padded<scalar>(slots)), epsilon(epsilon),
        positive(heads * width), lengths(width * stride) {}

 protected:
  // -- from and to tensors ------------------------------------------------------------------------

  void turn_in(const scalar* from, scalar* to) const {
    memnets::turn_in(slots, width, stride, from, to);
  }

  void turn_out(const scalar* from, scalar* to) const {
    memnets::turn_out(slots, width, stride, from, to);
  }

  void rows_in(int64_t count, const scalar* from, scalar* to) const {
    for (int64_t row = 0; row < count; row++) {
      std::memcpy(to + row * stride, from + row * slots, slots * sizeof(scalar));
      for (int64_t i = slots; i < stride; i++) to[row * stride + i] = 0;
    }
  }

  void rows_out(int64_t count, const scalar* from, scalar* to) const {
    for (int64_t row = 0; row < count; row++) {
      std::memcpy(to + row * slots, from + row * stride, slots * sizeof(scalar));
    }
  }

  // The inverse lengths of all slots of a memory, behind it.
  void measure(scalar* memory) const {
    for (int64_t i = 0; i < stride; i += L) {
      vector square = all(epsilon);
      for (int64_t w = 0; w < width; w++) {
        const vector number = get(memory + w * stride + i);
        square += number * number;
      }
      store(memory + lengths + i, inverse_root<scalar>(square));
    }
  }

  // -- keys ---------------------------------------------------------------------------------------

  // Keys of the length of their strength, so that a product with a slot of length 1 is beta times
  // the cosine. `interface` holds keys and strengths in their ranges.
  void point(const scalar* interface, scalar* pointed) const {
    for (int64_t head = 0; head < heads; head++) {
      const scalar* key = interface + head * width;
      const scalar scale = interface[positive + head] / std::sqrt(dot(width, key, key) + epsilon);
      for (int64_t w = 0; w < width; w++) pointed[head * width + w] = key[w] * scale;
    }
  }

  // From gradients of pointed keys to those of keys, in place, and of raw strengths. `slopes` are
  // those of the strengths.
  void point_gradient(const scalar* interface, const scalar* slopes,
                      scalar* interface_gradient) const {
    for (int64_t head = 0; head < heads; head++) {
      const scalar* key = interface + head * width;
      scalar* of_key = interface_gradient + head * width;
      const scalar scale = 1 / std::sqrt(dot(width, key, key) + epsilon);
      // A unit vector moves only across its direction: the part along it is the strength's.
      const scalar along = dot(width, of_key, key) * scale;
      const scalar strength = interface[positive + head];
      for (int64_t w = 0; w < width; w++) {
        of_key[w] = (of_key[w] - key[w] * scale * along) * scale * strength;
      }
      interface_gradient[positive + head] = along * slopes[head];
    }
  }

  // -- by content ---------------------------------------------------------------------------------

  // The argument of the softmax of each head, beta times the cosine.
  void score(const scalar* memory, const scalar* pointed, scalar* result) const {
    score(heads, memory, pointed, result);
  }

  void score(int64_t rows, const scalar* __restrict memory, const scalar* __restrict pointed,
             scalar* __restrict result) const {
    products(Grid{rows, width, stride, stride}, pointed, memory,
             [&](int64_t row, int64_t i, vector product) {
      store(result + row * stride + i, product * get(memory + lengths + i));
    });
  }

  // From the gradients of the weights by content to those of the scores, without the lengths of the
  // slots, in place. The length of a slot is part of its score: the gradient of the memory along the
  // slot is added to `radial`.
  MEMNETS_INLINE void score_gradient(const scalar* memory, const scalar* found,
                                     const scalar* scores, scalar* now, scalar* radial) const {
    softmax_gradient(slots, now, found);
    for (int64_t i = 0; i < stride; i += L) {
      const vector length = get(memory + lengths + i);
      const vector one = get(now + i) * length;
      store(now + i, one);
      store(radial + i, get(radial + i) + one * length * get(scores + i));
    }
  }

  // From the gradients of the scores to those of the pointed keys and of the memory, in one pass.
  // With `reading`, reads of `vectors_gradient` with `weights` add to that of the memory too.
  // `count` is the number of heads, 0 = known at run time only; `sums` has W vectors for each.
  template <int count, bool reading = false>
  void content_gradient(const scalar* __restrict memory, const scalar* __restrict pointed,
                        const scalar* __restrict flow, const scalar* __restrict radial,
                        scalar* __restrict gradient, scalar* __restrict keys_gradient,
                        scalar* __restrict sums, const scalar* __restrict weights = nullptr,
                        const scalar* __restrict vectors_gradient = nullptr) const {
    const int64_t H = count ? count : heads;
    for (int64_t k = 0; k < H * width; k++) store(sums + k * L, vector{});
    blocks<scalar>(stride, [&](auto vectors, int64_t i) {
      constexpr int V = decltype(vectors)::value;
      for (int64_t w = 0; w < width; w++) {
        vector number[V], now[V];
        for (int v = 0; v < V; v++) {
          number[v] = get(memory + w * stride + i + v * L);
          now[v] = get(gradient + w * stride + i + v * L) - number[v] * get(radial + i + v * L);
        }
        for (int64_t head = 0; head < H; head++) {
          const scalar key = pointed[head * width + w];
          vector total = get(sums + (head * width + w) * L);
          for (int v = 0; v < V; v++) {
            const vector one = get(flow + head * stride + i + v * L);
            total += one * number[v];
            now[v] += one * key;
            if constexpr (reading) {
              now[v] += get(weights + head * stride + i + v * L) *
                        vectors_gradient[head * width + w];
            }
          }
          store(sums + (head * width + w) * L, total);
        }
        for (int v = 0; v < V; v++) store(gradient + w * stride + i + v * L, now[v]);
      }
    });
    for (int64_t k = 0; k < H * width; k++) keys_gradient[k] = sum<scalar>(get(sums + k * L));
  }

  static MEMNETS_INLINE vector get(const scalar* from) { return memnets::load(from); }
};

}  // namespace memnets
