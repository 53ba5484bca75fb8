// Memories whose rows all move by one: a stack and a tape that moves, a step of one row of the
// batch.
//
// The definitions are memnets.memories.Stack and memnets.memories.MovingTape. In both, a step is the
// mean of the memory moved on, moved back and left where it is:
//
//   m_t(i) = on m(i - 1) + back m(i + 1) + stay m(i)
//
// They differ in what stands beyond the first slot and the last one, and in what is written before.
// The memory is kept as [W, N], so that all loops go over slots, whatever W is; each row has a place
// more at both of its ends for what stands beyond them, so that slot i is at place i + 1.
#pragma once

#include <algorithm>

#include "memory.h"

namespace memnets {

template <typename scalar>
struct Shifting : Memory<scalar> {
  typedef Vector<scalar> vector;
  static constexpr int64_t L = lanes<scalar>;
  static constexpr int64_t ON = 0, BACK = 1, STAY = 2, ACTIONS = 3;

  int64_t count, width, slots, visible, whole, stride;
  int64_t others;  // where the interface goes on behind the actions

  // `count` memories of width W stand side by side; the `visible` first slots are read.
  Shifting(int64_t count, int64_t width, int64_t slots, int64_t visible, int64_t more)
      : count(count), width(width), slots(slots), visible(visible), whole(count * width),
        stride(padded<scalar>(slots + 2) + L), others(count * ACTIONS) {
    this->interface_size = others + more + whole;
    this->read_size = visible * whole;
    this->parts = {slots * whole};
    this->state_size = this->gradient_size = whole * stride;
    this->kept_size = padded<scalar>(this->interface_size);
    this->scratch_size = 2 * stride + padded<scalar>(ACTIONS);
    // Degrees that are nearly 0 are mixed again and again.
    this->normal = true;
  }

  void load(int64_t b, const scalar* const* tensors, scalar* state, scalar*) const override {
    turn_in(tensors[0] + b * slots * whole, state);
  }

  void save(int64_t b, const scalar* state, const scalar*,
            scalar* const* tensors) const override {
    turn_out(state, tensors[0] + b * slots * whole);
  }

  void load_gradient(int64_t b, const scalar* const* tensors, scalar* gradient) const override {
    turn_in(tensors[0] + b * slots * whole, gradient);
  }

  void save_gradient(int64_t b, const scalar* gradient, scalar* const* tensors) const override {
    turn_out(gradient, tensors[0] + b * slots * whole);
  }

  void forward(scalar* interface, const scalar* before, scalar* after, const scalar*, scalar*,
               scalar* kept, scalar* vectors, scalar* scratch) const override {
    scalar* row = scratch;
    scalar* actions = scratch + 2 * stride;
    for (int64_t one = 0; one < count; one++) {
      std::memcpy(actions, interface + one * ACTIONS, ACTIONS * sizeof(scalar));
      softmax(ACTIONS, actions);
      std::memcpy(kept + one * ACTIONS, actions, ACTIONS * sizeof(scalar));
    }
    into_range(interface + others, kept + others);
    for (int64_t w = 0; w < whole; w++) {
      const scalar* degrees = kept + w / width * ACTIONS;
      scalar* next = after + w * stride;
      written(before + w * stride, kept + others, w, row);
      mix(degrees[ON], degrees[BACK], degrees[STAY], row, next);
      for (int64_t k = 0; k < visible; k++) vectors[k * whole + w] = next[k + 1];
    }
  }

  void backward(const Taken<scalar>* steps, int64_t taken, const scalar*,
                const scalar* vectors_gradient, scalar* gradient, scalar* interface_gradient,
                scalar* scratch) const override {
    const scalar *before = steps[taken - 1].before, *kept = steps[taken - 1].kept;
    scalar* row = scratch;
    scalar* moved = scratch + stride;
    for (int64_t i = 0; i < others; i++) interface_gradient[i] = 0;
    clear(interface_gradient + others);
    for (int64_t w = 0; w < whole; w++) {
      const scalar* degrees = kept + w / width * ACTIONS;
      scalar* of_degrees = interface_gradient + w / width * ACTIONS;
      scalar* of_row = gradient + w * stride;
      for (int64_t k = 0; k < visible; k++) of_row[k + 1] += vectors_gradient[k * whole + w];
      written(before + w * stride, kept + others, w, row);
      // Behind the last slot `of_row` is 0.
      vector on = {}, back = {}, stay = {};
      for (int64_t i = 1; i <= slots; i += L) {
        const vector by = memnets::load(of_row + i);
        on += by * memnets::load(row + i - 1);
        back += by * memnets::load(row + i + 1);
        stay += by * memnets::load(row + i);
      }
      of_degrees[ON] += sum<scalar>(on);
      of_degrees[BACK] += sum<scalar>(back);
      of_degrees[STAY] += sum<scalar>(stay);
      turn(of_row);
      // What came from the slot before came to the slot behind: on and back change places.
      mix(degrees[BACK], degrees[ON], degrees[STAY], of_row, moved);
      written_gradient(before + w * stride, kept + others, w, degrees[ON], of_row, moved,
                       interface_gradient + others);
      std::memcpy(of_row, moved, stride * sizeof(scalar));
    }
    for (int64_t one = 0; one < count; one++) {
      const scalar* degrees = kept + one * ACTIONS;
      scalar* now = interface_gradient + one * ACTIONS;
      scalar mean = 0;
      for (int64_t i = 0; i < ACTIONS; i++) mean += now[i] * degrees[i];
      for (int64_t i = 0; i < ACTIONS; i++) now[i] = degrees[i] * (now[i] - mean);
    }
    out_of_range(kept + others, interface_gradient + others);
  }

 protected:
  // The interface behind the actions, each part into its range; and the gradient back.
  virtual void into_range(const scalar* interface, scalar* kept) const = 0;
  virtual void out_of_range(const scalar* kept, scalar* gradient) const = 0;

  // Row w of the memory as it is before it moves, with what stands beyond its ends.
  virtual void written(const scalar* before, const scalar* kept, int64_t w, scalar* row) const = 0;

  // Before a gradient is moved back: what stands beyond its ends.
  virtual void turn(scalar* of_row) const = 0;

  // From the gradient of the row as it is before it moves, in `moved`, to that of the memory, in
  // place, and of the interface. `of_row` is the gradient of the row after it moved.
  virtual void written_gradient(const scalar* before, const scalar* kept, int64_t w, scalar on,
                                const scalar* of_row, scalar* moved, scalar* gradient) const = 0;

  void clear(scalar* of_others) const {
    for (int64_t i = 0; i < this->interface_size - others; i++) of_others[i] = 0;
  }

  // to(i) = on from(i - 1) + back from(i + 1) + stay from(i); 0 beyond the ends.
  void mix(scalar on, scalar back, scalar stay, const scalar* __restrict from,
           scalar* __restrict to) const {
    for (int64_t i = 1; i <= slots; i += L) {
      store(to + i, on * memnets::load(from + i - 1) + back * memnets::load(from + i + 1) +
                        stay * memnets::load(from + i));
    }
    to[0] = 0;
    for (int64_t i = slots + 1; i < stride; i++) to[i] = 0;
  }

  // [N, W] -> [W, stride], and back.
  void turn_in(const scalar* from, scalar* to) const {
    for (int64_t w = 0; w < whole; w++) {
      scalar* row = to + w * stride;
      row[0] = 0;
      for (int64_t i = 0; i < slots; i++) row[i + 1] = from[i * whole + w];
      for (int64_t i = slots + 1; i < stride; i++) row[i] = 0;
    }
  }

  void turn_out(const scalar* from, scalar* to) const {
    for (int64_t i = 0; i < slots; i++) {
      for (int64_t w = 0; w < whole; w++) to[i * whole + w] = from[w * stride + i + 1];
    }
  }
};

// Joulin & Mikolov 2015: a push moves all elements on, and what is pushed stands before the first.
template <typename scalar>
struct Stack final : Shifting<scalar> {
  typedef Vector<scalar> vector;

  const double* const empty;  // what stands behind the last element, a number for each w

  Stack(int64_t count, int64_t width, int64_t slots, int64_t visible, const double* empty)
      : Shifting<scalar>(count, width, slots, visible, 0), empty(empty) {}

 protected:
  void into_range(const scalar* interface, scalar* kept) const override {
    map(this->whole, interface, kept, [](vector x) { return sigmoid<scalar>(x); });
  }

  void out_of_range(const scalar* kept, scalar* gradient) const override {
    for (int64_t w = 0; w < this->whole; w++) gradient[w] *= kept[w] * (1 - kept[w]);
  }

  void written(const scalar* before, const scalar* kept, int64_t w, scalar* row) const override {
    std::memcpy(row, before, this->stride * sizeof(scalar));
    row[0] = kept[w];
    row[this->slots + 1] = empty[w];
  }

  void turn(scalar*) const override {}

  void written_gradient(const scalar*, const scalar*, int64_t w, scalar on, const scalar* of_row,
                        scalar*, scalar* gradient) const override {
    gradient[w] = on * of_row[1];
  }
};

// Deletang et al. 2023: the head is on the first slot, writes it, and the tape moves round.
template <typename scalar>
struct MovingTape final : Shifting<scalar> {
  typedef Vector<scalar> vector;

  const int64_t gates;  // 0 = each step writes

  MovingTape(int64_t count, int64_t width, int64_t slots, bool gated)
      : Shifting<scalar>(count, width, slots, 1, gated ? count : 0), gates(gated ? count : 0) {}

 protected:
  void into_range(const scalar* interface, scalar* kept) const override {
    map(gates, interface, kept, [](vector x) { return sigmoid<scalar>(x); });
    map(this->whole, interface + gates, kept + gates,
        [](vector x) { return hyperbolic_tangent<scalar>(x); });
  }

  void out_of_range(const scalar* kept, scalar* gradient) const override {
    for (int64_t i = 0; i < gates; i++) gradient[i] *= kept[i] * (1 - kept[i]);
    for (int64_t i = gates; i < gates + this->whole; i++) gradient[i] *= 1 - kept[i] * kept[i];
  }

  void written(const scalar* before, const scalar* kept, int64_t w, scalar* row) const override {
    std::memcpy(row, before, this->stride * sizeof(scalar));
    row[1] += gate(kept, w) * (kept[gates + w] - row[1]);
    turn(row);
  }

  void turn(scalar* row) const override {
    row[0] = row[this->slots];
    row[this->slots + 1] = row[1];
  }

  void written_gradient(const scalar* before, const scalar* kept, int64_t w, scalar,
                        const scalar*, scalar* moved, scalar* gradient) const override {
    const scalar part = gate(kept, w), by = moved[1];
    gradient[gates + w] = part * by;
    if (gates) gradient[w / this->width] += by * (kept[gates + w] - before[1]);
    moved[1] = (1 - part) * by;
  }

 private:
  scalar gate(const scalar* kept, int64_t w) const { return gates ? kept[w / this->width] : 1; }
};

}  // namespace memnets
