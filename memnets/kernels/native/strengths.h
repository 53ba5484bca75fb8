// Stacks, queues and deques whose elements have strengths (Grefenstette et al. 2015): a step of one
// row of the batch.
//
// The definition is memnets.memories.Strengths; the names here are those of its code. Elements are
// pushed and never changed, so that they are a bulk that grows, with room for all that the run will
// push; a step keeps the strengths alone. Sequences may not skip steps: the place of what a
// step pushes follows from its number.
#pragma once

#include <algorithm>
#include <vector>

#include "memory.h"

namespace memnets {

enum Kind : int64_t { STACK = 0, QUEUE = 1, DEQUE = 2 };

template <typename scalar>
struct Strengths final : Memory<scalar> {
  typedef Vector<scalar> vector;
  static constexpr int64_t L = lanes<scalar>;

  // An end at which elements are pushed, popped or read.
  enum End { BOTTOM = 0, TOP = 1 };

  int64_t count, width, taken, slots, room;
  std::vector<End> pushes, pops, reads;
  int64_t ends, degrees, pushed;  // pushed: where the interface goes on behind the degrees
  int64_t values;                 // where the gradient of the elements begins

  // `taken` elements are there at the start of the run, and `slots` at its end.
  Strengths(int64_t count, int64_t width, int64_t kind, int64_t taken, int64_t slots)
      : count(count), width(width), taken(taken), slots(slots), room(padded<scalar>(slots)) {
    if (kind == DEQUE) {
      pushes = pops = reads = {BOTTOM, TOP};
    } else {
      pushes = {TOP};
      pops = reads = {kind == STACK ? TOP : BOTTOM};
    }
    ends = pushes.size();
    degrees = ends + pops.size();
    pushed = count * degrees;
    this->interface_size = pushed + count * ends * width;
    this->read_size = count * reads.size() * width;
    this->parts = {count * slots * width, count * slots};
    // The first vector holds the number of elements.
    this->state_size = L + count * room;
    this->bulk_size = padded<scalar>(count * slots * width);
    this->grows = true;
    this->kept_size = padded<scalar>(this->interface_size);
    values = count * room;
    this->gradient_size = values + this->bulk_size;
    this->scratch_size = 6 * room;
    this->normal = true;
  }

  void load(int64_t b, const scalar* const* tensors, scalar* state, scalar* bulk) const override {
    std::memcpy(bulk, tensors[0] + b * count * slots * width,
                count * slots * width * sizeof(scalar));
    for (int64_t i = 0; i < this->state_size; i++) state[i] = 0;
    state[0] = taken;
    rows_in(tensors[1] + b * count * slots, state + L);
  }

  void save(int64_t b, const scalar* state, const scalar* bulk,
            scalar* const* tensors) const override {
    std::memcpy(tensors[0] + b * count * slots * width, bulk,
                count * slots * width * sizeof(scalar));
    rows_out(state + L, tensors[1] + b * count * slots);
  }

  void load_gradient(int64_t b, const scalar* const* tensors, scalar* gradient) const override {
    std::memcpy(gradient + values, tensors[0] + b * count * slots * width,
                count * slots * width * sizeof(scalar));
    rows_in(tensors[1] + b * count * slots, gradient);
  }

  void save_gradient(int64_t b, const scalar* gradient, scalar* const* tensors) const override {
    std::memcpy(tensors[0] + b * count * slots * width, gradient + values,
                count * slots * width * sizeof(scalar));
    rows_out(gradient, tensors[1] + b * count * slots);
  }

  void forward(scalar* interface, const scalar* before, scalar* after, const scalar*,
               scalar* bulk, scalar* kept, scalar* vectors,
               scalar* scratch) const override {
    map(pushed, interface, kept, [](vector x) { return sigmoid<scalar>(x); });
    map(this->interface_size - pushed, interface + pushed, kept + pushed,
        [](vector x) { return hyperbolic_tangent<scalar>(x); });
    const int64_t there = int64_t(before[0]), now = there + ends;
    scalar* const ordered = scratch;
    scalar* const weights = scratch + room;
    after[0] = now;
    for (int64_t one = 0; one < count; one++) {
      const scalar* degree = kept + one * degrees;
      scalar* strengths = after + L + one * room;
      std::memcpy(strengths, before + L + one * room, room * sizeof(scalar));
      for (int64_t k = pops.size() - 1; k >= 0; k--) {
        order(pops[k], there, strengths, ordered);
        scalar first = 0;
        for (int64_t i = 0; i < there; i++) {
          const scalar strength = ordered[i];
          ordered[i] = positive(strength - positive(degree[ends + k] - first));
          first += strength;
        }
        unorder(pops[k], there, ordered, strengths);
      }
      scalar* elements = bulk + one * slots * width;
      for (int64_t end = 0; end < ends; end++) {
        strengths[there + end] = degree[end];
        std::memcpy(elements + (there + end) * width, element(kept, one, end),
                    width * sizeof(scalar));
      }
      for (size_t k = 0; k < reads.size(); k++) {
        scalar* read = vectors + (one * reads.size() + k) * width;
        for (int64_t w = 0; w < width; w++) read[w] = 0;
        order(reads[k], now, strengths, ordered);
        scalar first = 0;
        // Behind a strength of 1 in all, weights are 0.
        for (int64_t i = 0; i < now && first < 1; i++) {
          const scalar weight = std::min(ordered[i], 1 - first);
          first += ordered[i];
          if (weight == 0) continue;
          const scalar* value = elements + place(reads[k], now, i) * width;
          for (int64_t w = 0; w < width; w++) read[w] += weight * value[w];
        }
      }
    }
  }

  void backward(const Taken<scalar>* steps, int64_t past, const scalar* bulk,
                const scalar* vectors_gradient, scalar* gradient, scalar* interface_gradient,
                scalar* scratch) const override {
    const auto [before, after, kept] = steps[past - 1];
    const int64_t there = int64_t(before[0]), now = there + ends;
    scalar* const strengths = scratch;           // after each of the pops
    scalar* const ordered = scratch + 3 * room;  // one of them, in the order of an end
    scalar* const flow = scratch + 4 * room;     // its gradient
    scalar* const turned = scratch + 5 * room;
    for (int64_t i = 0; i < this->interface_size; i++) interface_gradient[i] = 0;
    for (int64_t one = 0; one < count; one++) {
      const scalar* degree = kept + one * degrees;
      scalar* of_degree = interface_gradient + one * degrees;
      scalar* of_strengths = gradient + one * room;
      scalar* of_values = gradient + values + one * slots * width;

      for (size_t k = 0; k < reads.size(); k++) {
        const scalar* of_read = vectors_gradient + (one * reads.size() + k) * width;
        order(reads[k], now, after + L + one * room, ordered);
        scalar first = 0;
        for (int64_t i = 0; i < now; i++) {
          const int64_t slot = place(reads[k], now, i);
          const scalar* value = bulk + (one * slots + slot) * width;
          scalar by = 0;
          for (int64_t w = 0; w < width; w++) by += of_read[w] * value[w];
          const scalar strength = ordered[i], rest = 1 - first, left = positive(rest);
          const scalar weight = std::min(strength, left);
          if (weight != 0) {
            scalar* of_value = of_values + slot * width;
            for (int64_t w = 0; w < width; w++) of_value[w] += weight * of_read[w];
          }
          // Of two equal numbers each has half of the gradient, as in PyTorch.
          const scalar own = strength < left ? 1 : strength > left ? 0 : scalar(0.5);
          flow[i] = own * by;
          turned[i] = rest >= 0 ? -(1 - own) * by : 0;  // of the sum of those before
          first += strength;
        }
        sum_back(now, turned, flow);
        for (int64_t i = 0; i < now; i++) of_strengths[place(reads[k], now, i)] += flow[i];
      }

      for (int64_t end = 0; end < ends; end++) {
        const int64_t slot = there + end;
        of_degree[end] = of_strengths[slot];
        of_strengths[slot] = 0;
        scalar* of_value = of_values + slot * width;
        scalar* of_pushed = interface_gradient + (element(kept, one, end) - kept);
        std::memcpy(of_pushed, of_value, width * sizeof(scalar));
        std::memset(of_value, 0, width * sizeof(scalar));
      }

      // The pops once more: strengths before the first of them, before the second and so on.
      const int64_t times = pops.size();
      std::memcpy(strengths, before + L + one * room, room * sizeof(scalar));
      for (int64_t turn = 0; turn + 1 < times; turn++) {
        const int64_t k = times - 1 - turn;
        scalar* next = strengths + (turn + 1) * room;
        order(pops[k], there, strengths + turn * room, ordered);
        scalar first = 0;
        for (int64_t i = 0; i < there; i++) {
          const scalar strength = ordered[i];
          ordered[i] = positive(strength - positive(degree[ends + k] - first));
          first += strength;
        }
        unorder(pops[k], there, ordered, next);
      }
      for (int64_t turn = times - 1; turn >= 0; turn--) {
        const int64_t k = times - 1 - turn;
        order(pops[k], there, strengths + turn * room, ordered);
        order(pops[k], there, of_strengths, flow);
        scalar first = 0, of_pop = 0;
        for (int64_t i = 0; i < there; i++) {
          const scalar strength = ordered[i], due = degree[ends + k] - first;
          if (strength - positive(due) < 0) flow[i] = 0;
          turned[i] = due >= 0 ? flow[i] : 0;
          of_pop -= turned[i];
          first += strength;
        }
        of_degree[ends + k] = of_pop;
        sum_back(there, turned, flow);
        unorder(pops[k], there, flow, of_strengths);
      }
    }
    for (int64_t i = 0; i < pushed; i++) interface_gradient[i] *= kept[i] * (1 - kept[i]);
    for (int64_t i = pushed; i < this->interface_size; i++) {
      interface_gradient[i] *= 1 - kept[i] * kept[i];
    }
  }

 private:
  // As PyTorch's clamp: NaN stays.
  static MEMNETS_INLINE scalar positive(scalar x) { return x < 0 ? 0 : x; }

  // to(j) += sum of from(i) over all i behind j.
  static void sum_back(int64_t n, const scalar* from, scalar* to) {
    scalar total = 0;
    for (int64_t i = n - 1; i >= 0; i--) {
      to[i] += total;
      total += from[i];
    }
  }

  // The slot at place i from an end, of n slots.
  MEMNETS_INLINE int64_t place(End end, int64_t n, int64_t i) const {
    if (end == TOP) i = n - 1 - i;
    if (ends == 1) return i;
    // The last bottom, ..., the first bottom, the first top, ..., the last top.
    const int64_t half = n / 2;
    return i < half ? 2 * (half - 1 - i) : 2 * (i - half) + 1;
  }

  void order(End end, int64_t n, const scalar* from, scalar* to) const {
    for (int64_t i = 0; i < n; i++) to[i] = from[place(end, n, i)];
  }

  void unorder(End end, int64_t n, const scalar* from, scalar* to) const {
    for (int64_t i = 0; i < n; i++) to[place(end, n, i)] = from[i];
  }

  // What a step pushed at an end.
  MEMNETS_INLINE const scalar* element(const scalar* kept, int64_t one, int64_t end) const {
    return kept + pushed + (one * ends + end) * width;
  }

  void rows_in(const scalar* from, scalar* to) const {
    for (int64_t one = 0; one < count; one++) {
      std::memcpy(to + one * room, from + one * slots, slots * sizeof(scalar));
      for (int64_t i = slots; i < room; i++) to[one * room + i] = 0;
    }
  }

  void rows_out(const scalar* from, scalar* to) const {
    for (int64_t one = 0; one < count; one++) {
      std::memcpy(to + one * slots, from + one * room, slots * sizeof(scalar));
    }
  }
};

}  // namespace memnets
