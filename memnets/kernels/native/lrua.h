// The memory with least recently used access (Santoro et al. 2016): a step of one row.
//
// The definition is memnets.memories.LRUA; the names here are those of its code.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "slots.h"

namespace memnets {

template <typename scalar>
struct LRUA final : Slots<scalar> {
  typedef Slots<scalar> Base;
  typedef Vector<scalar> vector;
  static constexpr int64_t L = lanes<scalar>;
  using Base::heads, Base::width, Base::slots, Base::stride, Base::epsilon, Base::positive,
      Base::lengths, Base::get;

  scalar decay;
  int64_t gates;  // where they begin in the interface, behind keys and strengths
  // Where the parts of the state, of its gradient and of what is kept begin.
  int64_t usage, weights, usage_gradient, weights_gradient, slopes, scores;

  LRUA(int64_t heads, int64_t width, int64_t slots, double decay, double epsilon)
      : Base(heads, width, slots, epsilon), decay(decay), gates(positive + heads) {
    this->interface_size = gates + heads;
    this->read_size = heads * width;
    this->parts = {slots * width, slots, heads * slots};

    usage = lengths + stride;
    weights = usage + stride;
    this->state_size = weights + heads * stride;

    usage_gradient = width * stride;
    weights_gradient = usage_gradient + stride;
    this->gradient_size = weights_gradient + heads * stride;

    slopes = padded<scalar>(this->interface_size);
    scores = slopes + padded<scalar>(heads);
    this->kept_size = scores + heads * stride;

    this->scratch_size = padded<scalar>(heads * width) + padded<scalar>(heads) +
                         (2 * heads + 2) * stride + heads * width * L;
    this->normal = true;
  }

  void load(int64_t b, const scalar* const* tensors, scalar* state, scalar*) const override {
    this->turn_in(tensors[0] + b * slots * width, state);
    this->rows_in(1, tensors[1] + b * slots, state + usage);
    this->rows_in(heads, tensors[2] + b * heads * slots, state + weights);
    this->measure(state);
  }

  void save(int64_t b, const scalar* state, const scalar*,
            scalar* const* tensors) const override {
    this->turn_out(state, tensors[0] + b * slots * width);
    this->rows_out(1, state + usage, tensors[1] + b * slots);
    this->rows_out(heads, state + weights, tensors[2] + b * heads * slots);
  }

  void load_gradient(int64_t b, const scalar* const* tensors, scalar* gradient) const override {
    this->turn_in(tensors[0] + b * slots * width, gradient);
    this->rows_in(1, tensors[1] + b * slots, gradient + usage_gradient);
    this->rows_in(heads, tensors[2] + b * heads * slots, gradient + weights_gradient);
  }

  void save_gradient(int64_t b, const scalar* gradient, scalar* const* tensors) const override {
    this->turn_out(gradient, tensors[0] + b * slots * width);
    this->rows_out(1, gradient + usage_gradient, tensors[1] + b * slots);
    this->rows_out(heads, gradient + weights_gradient, tensors[2] + b * heads * slots);
  }

  void forward(scalar* interface, const scalar* before, scalar* after, const scalar*, scalar*,
               scalar* kept, scalar* vectors, scalar* scratch) const override {
    const Work work = work_of(scratch);
    std::memcpy(kept, interface, positive * sizeof(scalar));
    map(heads, interface + positive, kept + positive, [](vector x) { return softplus<scalar>(x); });
    map(heads, interface + positive, kept + slopes, [](vector x) { return sigmoid<scalar>(x); });
    map(heads, interface + gates, kept + gates, [](vector x) { return sigmoid<scalar>(x); });

    least_used(before + usage, work.row, work.emptied);
    written_by(before, kept, work);
    write(before, after, kept, work);

    this->point(kept, work.pointed);
    this->score(after, work.pointed, kept + scores);
    for (int64_t head = 0; head < heads; head++) {
      scalar* found = after + weights + head * stride;
      std::memcpy(found, kept + scores + head * stride, stride * sizeof(scalar));
      softmax(slots, found);
    }
    read_vectors({heads, width, stride, stride}, after + weights, after, vectors);

    for (int64_t i = 0; i < stride; i += L) {
      vector more = {};
      for (int64_t head = 0; head < heads; head++) {
        more += get(after + weights + head * stride + i) + get(work.written + head * stride + i);
      }
      store(after + usage + i, decay * get(before + usage + i) + more);
    }
  }

  void backward(const Taken<scalar>* steps, int64_t count, const scalar*,
                const scalar* vectors_gradient, scalar* gradient, scalar* interface_gradient,
                scalar* scratch) const override {
    const auto [before, after, kept] = steps[count - 1];
    const Work work = work_of(scratch);

    // The usage is no function of the step: its gradient passes the steps that are skipped alone.
    std::fill_n(gradient + usage_gradient, stride, scalar(0));

    // Read, with weights by content of the memory that was written.
    scalar* const of_weights = gradient + weights_gradient;
    std::memcpy(work.flow, of_weights, heads * stride * sizeof(scalar));
    add_products({heads, width, stride, stride}, vectors_gradient, after, work.flow);
    scalar* const radial = work.row;
    std::fill_n(radial, stride, scalar(0));
    for (int64_t head = 0; head < heads; head++) {
      const int64_t row = head * stride;
      this->score_gradient(
          after, after + weights + row, kept + scores + row, work.flow + row, radial);
    }
    this->point(kept, work.pointed);
    auto found = [&](auto number) {
      this->template content_gradient<number.value, true>(
          after, work.pointed, work.flow, radial, gradient, interface_gradient, work.sums,
          after + weights, vectors_gradient);
    };
    with_heads(found);
    this->point_gradient(kept, kept + slopes, interface_gradient);

    // Write. Nothing flows through the choice of the slots.
    least_used(before + usage, work.row, work.emptied);
    written_by(before, kept, work);
    write_gradient(kept, gradient, interface_gradient, work);
    for (int64_t head = 0; head < heads; head++) {
      const scalar* past = before + weights + head * stride;
      const scalar* now = work.flow + head * stride;
      const scalar gate = kept[gates + head];
      vector of_gate = {};
      for (int64_t i = 0; i < stride; i += L) {
        of_gate += get(now + i) * get(past + i);
        store(of_weights + head * stride + i, get(now + i) * gate);
      }
      const scalar of_chosen = now[place(work, head)];
      interface_gradient[gates + head] = (sum<scalar>(of_gate) - of_chosen) * gate * (1 - gate);
    }
  }

 private:
  // A slot's number, in a row of numbers.
  typedef typename Types<scalar>::whole Place;

  // The parts of the scratch. `emptied` are the places of the slots used least, one of each head.
  struct Work {
    scalar *pointed, *emptied, *row, *kept, *written, *flow, *sums;
  };

  Work work_of(scalar* at) const {
    scalar *emptied = at + padded<scalar>(heads * width), *row = emptied + padded<scalar>(heads);
    scalar *written = row + 2 * stride, *flow = written + heads * stride;
    return {at, emptied, row, row + stride, written, flow, flow + heads * stride};
  }

  static MEMNETS_INLINE int64_t place(const Work& work, int64_t head) {
    return reinterpret_cast<const Place*>(work.emptied)[head];
  }

  // Calls `run` with the number of heads as a constant, 0 = known at run time only.
  template <typename Run>
  MEMNETS_INLINE void with_heads(Run run) const {
    switch (heads) {
      case 1: run(std::integral_constant<int, 1>()); break;
      case 2: run(std::integral_constant<int, 2>()); break;
      case 4: run(std::integral_constant<int, 4>()); break;
      default: run(std::integral_constant<int, 0>());
    }
  }

  // The slots used least, one of each head, least first; of equal ones the first is the first.
  // `left` is a row for the usage of the slots that are left.
  void least_used(const scalar* used, scalar* left, scalar* emptied) const {
    constexpr scalar infinity = std::numeric_limits<scalar>::infinity();
    Place* const places = reinterpret_cast<Place*>(emptied);
    std::memcpy(left, used, slots * sizeof(scalar));
    for (int64_t i = slots; i < stride; i++) left[i] = infinity;
    for (int64_t head = 0; head < heads; head++) {
      vector lanes_least = all(infinity);
      for (int64_t i = 0; i < stride; i += L) {
        const vector one = get(left + i);
        lanes_least = one < lanes_least ? one : lanes_least;
      }
      const scalar least = -greatest<scalar>(-lanes_least);
      int64_t slot = 0;
      while (slot < slots && left[slot] != least) slot++;
      // Infinities, or NaN, which is not equal to itself: any slot that is left.
      if (slot == slots || least == infinity) {
        slot = 0;
        while (std::find(places, places + head, Place(slot)) != places + head) slot++;
      }
      places[head] = Place(slot);
      left[slot] = infinity;
    }
  }

  // w^w = g w^r + (1 - g) w^lu, and what each slot keeps: 0 of those that are emptied, 1 of others.
  void written_by(const scalar* before, const scalar* kept, const Work& work) const {
    std::fill_n(work.kept, stride, scalar(1));
    for (int64_t head = 0; head < heads; head++) {
      const scalar* past = before + weights + head * stride;
      scalar* written = work.written + head * stride;
      const scalar gate = kept[gates + head];
      for (int64_t i = 0; i < stride; i += L) store(written + i, gate * get(past + i));
      written[place(work, head)] += 1 - gate;
      work.kept[place(work, head)] = 0;
    }
  }

  // M(i) <- M(i) (1 - sum_h w^lu_h(i)) + sum_h w^w_h(i) k_h, and the lengths of the slots.
  void write(const scalar* __restrict memory, scalar* __restrict next,
             const scalar* __restrict keys, const Work& work) const {
    const scalar* __restrict written = work.written;
    const scalar* __restrict keeps = work.kept;
    blocks<scalar>(stride, [&](auto vectors, int64_t i) {
      constexpr int V = decltype(vectors)::value;
      vector square[V];
      for (int v = 0; v < V; v++) square[v] = all(epsilon);
      for (int64_t w = 0; w < width; w++) {
        vector number[V];
        for (int v = 0; v < V; v++) {
          number[v] = get(memory + w * stride + i + v * L) * get(keeps + i + v * L);
        }
        for (int64_t head = 0; head < heads; head++) {
          const scalar key = keys[head * width + w];
          for (int v = 0; v < V; v++) number[v] += get(written + head * stride + i + v * L) * key;
        }
        for (int v = 0; v < V; v++) {
          store(next + w * stride + i + v * L, number[v]);
          square[v] += number[v] * number[v];
        }
      }
      for (int v = 0; v < V; v++) store(next + lengths + i + v * L, inverse_root<scalar>(square[v]));
    });
  }

  // Backward of `write`: the gradient of the memory is changed in place, that of the keys added to,
  // and that of the weights w^w set in `flow`.
  void write_gradient(const scalar* __restrict keys, scalar* __restrict gradient,
                      scalar* __restrict keys_gradient, const Work& work) const {
    const scalar* __restrict written = work.written;
    scalar* __restrict sums = work.sums;
    std::fill_n(work.flow, heads * stride, scalar(0));
    add_products({heads, width, stride, stride}, keys, gradient, work.flow);
    for (int64_t k = 0; k < heads * width; k++) store(sums + k * L, vector{});
    blocks<scalar>(stride, [&](auto vectors, int64_t i) {
      constexpr int V = decltype(vectors)::value;
      for (int64_t w = 0; w < width; w++) {
        vector now[V];
        for (int v = 0; v < V; v++) now[v] = get(gradient + w * stride + i + v * L);
        for (int64_t head = 0; head < heads; head++) {
          vector total = get(sums + (head * width + w) * L);
          for (int v = 0; v < V; v++) total += get(written + head * stride + i + v * L) * now[v];
          store(sums + (head * width + w) * L, total);
        }
        for (int v = 0; v < V; v++) {
          store(gradient + w * stride + i + v * L, now[v] * get(work.kept + i + v * L));
        }
      }
    });
    for (int64_t k = 0; k < heads * width; k++) {
      keys_gradient[k] += sum<scalar>(get(sums + k * L));
    }
  }
};

}  // namespace memnets
