// A memory that grows by a slot a step and is read by content: a step of one row of the batch.
//
// The definition is memnets.memories.Tape with scores that are products of a query and a key, times
// a number. Slots are appended and never changed, so that they are a bulk that grows, keys and then
// values. A step keeps its queries, and of its weights only what the scores need to become them
// again: what a run keeps grows with its steps, not with their square. Sequences may not skip steps:
// the place of what a step appends follows from its number.
#pragma once

#include "content.h"
#include "memory.h"

namespace memnets {

template <typename scalar>
struct Tape final : Memory<scalar> {
  typedef Vector<scalar> vector;
  static constexpr int64_t L = lanes<scalar>;

  int64_t heads, width, taken, slots, stride;
  int64_t values;   // where the values begin in the bulk, and their gradient in that of the bulk
  int64_t softmax;  // where what is kept of each head's softmax begins: a number and a factor
  scalar scale;

  // `taken` slots are there at the start of the run, and `slots` at its end.
  Tape(int64_t heads, int64_t width, int64_t taken, int64_t slots, double scale)
      : heads(heads), width(width), taken(taken), slots(slots), stride(padded<scalar>(slots)),
        scale(scale) {
    // Rows an even number of vectors apart would fall on the same few places of a cache.
    if (stride / L % 2 == 0) stride += L;
    values = width * stride;
    softmax = heads * width;
    this->interface_size = (2 + heads) * width;
    this->read_size = heads * width;
    this->parts = {slots * width, slots * width};
    this->state_size = L;  // the number of slots
    this->bulk_size = this->gradient_size = 2 * width * stride;
    this->grows = true;
    this->kept_size = padded<scalar>(heads * width + 2 * heads);
    this->scratch_size = 2 * heads * stride;
    this->normal = true;
  }

  void load(int64_t b, const scalar* const* tensors, scalar* state, scalar* bulk) const override {
    for (int64_t i = 0; i < L; i++) state[i] = 0;
    state[0] = taken;
    both_in(b, tensors, bulk);
  }

  void save(int64_t b, const scalar*, const scalar* bulk, scalar* const* tensors) const override {
    both_out(b, bulk, tensors);
  }

  void load_gradient(int64_t b, const scalar* const* tensors, scalar* gradient) const override {
    both_in(b, tensors, gradient);
  }

  void save_gradient(int64_t b, const scalar* gradient, scalar* const* tensors) const override {
    both_out(b, gradient, tensors);
  }

  void forward(scalar* interface, const scalar* before, scalar* after, const scalar*,
               scalar* bulk, scalar* kept, scalar* vectors, scalar* scratch) const override {
    const int64_t there = int64_t(before[0]), now = there + 1;
    after[0] = now;
    for (int64_t w = 0; w < width; w++) {
      bulk[w * stride + there] = interface[w];
      bulk[values + w * stride + there] = interface[width + w];
    }
    for (int64_t k = 0; k < heads * width; k++) kept[k] = scale * interface[2 * width + k];
    scalar* weights = scratch;
    const Grid grid = scores(now, kept, bulk, weights);
    for (int64_t head = 0; head < heads; head++) {
      const auto [highest, share] = memnets::softmax(now, weights + head * stride);
      kept[softmax + 2 * head] = highest;
      kept[softmax + 2 * head + 1] = share;
    }
    read_vectors(grid, weights, bulk + values, vectors);
  }

  void backward(const Taken<scalar>* steps, int64_t count, const scalar* bulk,
                const scalar* vectors_gradient, scalar* gradient, scalar* interface_gradient,
                scalar* scratch) const override {
    const auto [before, after, kept] = steps[count - 1];
    const int64_t there = int64_t(before[0]), now = there + 1;
    scalar* weights = scratch;
    scalar* flow = scratch + heads * stride;
    const Grid grid = scores(now, kept, bulk, weights);
    for (int64_t head = 0; head < heads; head++) {
      scalar* row = weights + head * stride;
      const scalar highest = kept[softmax + 2 * head], share = kept[softmax + 2 * head + 1];
      for (int64_t i = 0; i < grid.span; i += L) {
        memnets::store(row + i, share * exponential<scalar>(memnets::load(row + i) - highest));
      }
      later(now, grid.span, row);
    }
    read_gradient(grid, weights, bulk + values, vectors_gradient, flow, gradient + values);
    for (int64_t head = 0; head < heads; head++) {
      later(now, grid.span, flow + head * stride);
      softmax_gradient(now, flow + head * stride, weights + head * stride);
    }
    scalar* of_queries = interface_gradient + 2 * width;
    products_gradient(grid, kept, bulk, flow, of_queries, gradient);
    for (int64_t k = 0; k < heads * width; k++) of_queries[k] *= scale;
    // What the step appended has its whole gradient now: nothing before the step knows of it.
    for (int64_t w = 0; w < width; w++) {
      scalar *of_key = gradient + w * stride + there, *of_value = of_key + values;
      interface_gradient[w] = *of_key;
      interface_gradient[width + w] = *of_value;
      *of_key = *of_value = 0;
    }
  }

 private:
  // Scores of all heads for the first slots.
  Grid scores(int64_t now, const scalar* queries, const scalar* bulk, scalar* to) const {
    const Grid grid{heads, width, padded<scalar>(now), stride};
    for (int64_t head = 0; head < heads; head++) {
      for (int64_t i = 0; i < grid.span; i += L) memnets::store(to + head * stride + i, vector{});
    }
    add_products(grid, queries, bulk, to);
    return grid;
  }

  // In the backward pass, slots of later steps stand in the padding.
  static void later(int64_t now, int64_t span, scalar* row) {
    for (int64_t i = now; i < span; i++) row[i] = 0;
  }

  void both_in(int64_t b, const scalar* const* tensors, scalar* to) const {
    for (int64_t k = 0; k < 2; k++) {
      turn_in(slots, width, stride, tensors[k] + b * slots * width, to + k * values);
    }
  }

  void both_out(int64_t b, const scalar* from, scalar* const* tensors) const {
    for (int64_t k = 0; k < 2; k++) {
      turn_out(slots, width, stride, from + k * values, tensors[k] + b * slots * width);
    }
  }
};

}  // namespace memnets
