// The memory of a Neural Turing Machine (Graves, Wayne & Danihelka 2014): a step of one row.
//
// The definition is memnets.memories.NTM; the names here are those of its code.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "slots.h"

namespace memnets {

template <typename scalar>
struct NTM : Slots<scalar> {
  typedef Slots<scalar> Base;
  typedef Vector<scalar> vector;
  static constexpr int64_t L = lanes<scalar>;
  using Base::heads, Base::width, Base::slots, Base::stride, Base::epsilon, Base::positive,
      Base::lengths;

  int64_t reads, writes, size;
  bool hard;  // one-hot weights, with the gradient of those that they stand for
  scalar least_sharpness, tie;
  // Where the parts of the interface begin, behind the keys and the strengths.
  int64_t unit, erase, shift, add;
  // Where the parts of the state, of its gradient and of what is kept begin.
  int64_t weights, weights_gradient, slopes, scores, content, shifted;
  int64_t wide;  // a row with its ends continued round the circle

  NTM(int64_t reads, int64_t writes, int64_t width, int64_t size, int64_t slots, bool hard,
      double least_sharpness, double epsilon, double tie)
      : Base(reads + writes, width, slots, epsilon), reads(reads), writes(writes), size(size),
        hard(hard), least_sharpness(least_sharpness), tie(tie) {
    unit = positive + 2 * heads;
    erase = unit + heads;
    shift = erase + writes * width;
    add = shift + heads * size;
    this->interface_size = add + writes * width;
    this->read_size = reads * width;
    this->parts = {slots * width, heads * slots};

    weights = lengths + stride;
    this->state_size = weights + heads * stride;

    weights_gradient = width * stride;
    this->gradient_size = weights_gradient + heads * stride;

    slopes = padded<scalar>(this->interface_size);
    scores = slopes + padded<scalar>(2 * heads);
    content = scores + heads * stride;
    shifted = content + heads * stride;
    this->kept_size = shifted + heads * stride;

    wide = stride + padded<scalar>(2 * (size / 2)) + L;
    const int64_t pointed = padded<scalar>(heads * width);
    this->scratch_size = pointed + 2 * wide + (2 * heads + 1) * stride + padded<scalar>(size) +
                         (std::max(reads, heads) + reads + 2 * writes) * width * L +
                         8 * writes * L;
  }

  void load(int64_t b, const scalar* const* tensors, scalar* state, scalar*) const override {
    this->turn_in(tensors[0] + b * slots * width, state);
    this->rows_in(heads, tensors[1] + b * heads * slots, state + weights);
    this->measure(state);
  }

  void save(int64_t b, const scalar* state, const scalar*,
            scalar* const* tensors) const override {
    this->turn_out(state, tensors[0] + b * slots * width);
    this->rows_out(heads, state + weights, tensors[1] + b * heads * slots);
  }

  void load_gradient(int64_t b, const scalar* const* tensors, scalar* gradient) const override {
    this->turn_in(tensors[0] + b * slots * width, gradient);
    this->rows_in(heads, tensors[1] + b * heads * slots, gradient + weights_gradient);
  }

  void save_gradient(int64_t b, const scalar* gradient, scalar* const* tensors) const override {
    this->turn_out(gradient, tensors[0] + b * slots * width);
    this->rows_out(heads, gradient + weights_gradient, tensors[1] + b * heads * slots);
  }

  void forward(scalar* interface, const scalar* before, scalar* after, const scalar*, scalar*,
               scalar* kept, scalar* vectors, scalar* scratch) const override {
    scalar* pointed = scratch;
    scalar* circle = pointed + padded<scalar>(heads * width);
    scalar* kernel = circle + wide;
    scalar* sums = kernel + padded<scalar>(size);

    ranges(interface, kept, kernel);
    this->point(kept, pointed);
    this->score(before, pointed, kept + scores);

    for (int64_t head = 0; head < heads; head++) {
      const scalar* previous = before + weights + head * stride;
      const scalar* moves = kept + shift + head * size;
      scalar* found = kept + content + head * stride;
      scalar* moved = kept + shifted + head * stride;
      scalar* next = after + weights + head * stride;
      const scalar gate = kept[unit + head];
      const scalar sharpness = least_sharpness + kept[positive + heads + head];
      std::memcpy(found, kept + scores + head * stride, stride * sizeof(scalar));
      softmax(slots, found);
      gated(found, previous, gate, circle);
      shifts(moves, circle, moved);
      if (hard) {
        std::fill_n(next, stride, scalar(0));
        next[chosen(moved)] = 1;
        continue;
      }
      // Sharpen: w = softmax(gamma log u).
      for (int64_t i = 0; i < stride; i += L) {
        store(next + i, sharpness * logarithm<scalar>(memnets::load(moved + i)));
      }
      softmax(slots, next);
    }

    if (reads == 1 && writes == 1) {
      read_and_write<1, 1>(before, after, kept, vectors, sums);
    } else {
      read_and_write<0, 0>(before, after, kept, vectors, sums);
    }
  }

  void backward(const Taken<scalar>* steps, int64_t count, const scalar*,
                const scalar* vectors_gradient, scalar* gradient, scalar* interface_gradient,
                scalar* scratch) const override {
    const auto [before, after, kept] = steps[count - 1];
    scalar* pointed = scratch;
    scalar* circle = pointed + padded<scalar>(heads * width);
    scalar* turned = circle + wide;
    scalar* flow = turned + wide;             // gradients of the weights, then of the scores
    scalar* radial = flow + heads * stride;
    scalar* moves_gradient = radial + stride;
    scalar* sums = moves_gradient + padded<scalar>(size);

    std::memcpy(flow, gradient + weights_gradient, heads * stride * sizeof(scalar));
    if (reads == 1 && writes == 1) {
      read_and_write_gradient<1, 1>(
          before, after, kept, vectors_gradient, gradient, interface_gradient, flow, sums);
    } else {
      read_and_write_gradient<0, 0>(
          before, after, kept, vectors_gradient, gradient, interface_gradient, flow, sums);
    }

    for (int64_t i = 0; i < stride; i += L) store(radial + i, vector{});
    for (int64_t head = 0; head < heads; head++) {
      const scalar* previous = before + weights + head * stride;
      const scalar* moves = kept + shift + head * size;
      const scalar* found = kept + content + head * stride;
      const scalar* moved = kept + shifted + head * stride;
      const scalar gate = kept[unit + head];
      const scalar sharpness = least_sharpness + kept[positive + heads + head];
      scalar* now = flow + head * stride;

      // Sharpen. The choice of a hard head counts as the identity, and has no sharpness.
      if (hard) {
        std::fill(now + slots, now + stride, scalar(0));
        interface_gradient[positive + heads + head] = 0;
      } else {
        softmax_gradient(slots, now, after + weights + head * stride);
        vector total = {};
        for (int64_t i = 0; i < stride; i += L) {
          const vector one = memnets::load(now + i), moved_one = memnets::load(moved + i);
          total += one * logarithm<scalar>(moved_one);
          store(now + i, sharpness * one / moved_one);
        }
        interface_gradient[positive + heads + head] =
            sum<scalar>(total) * kept[slopes + heads + head];
      }

      // Shift. The gradient of a circular convolution is one with the kernel turned round.
      gated(found, previous, gate, circle);
      round(now, turned);
      for (int64_t j = 0; j < size; j++) {
        vector product = {};
        for (int64_t i = 0; i < stride; i += L) {
          product += memnets::load(now + i) * memnets::load(circle + i + size - 1 - j);
        }
        moves_gradient[j] = sum<scalar>(product);
      }
      scalar mean = 0;
      for (int64_t j = 0; j < size; j++) mean += moves_gradient[j] * moves[j];
      for (int64_t j = 0; j < size; j++) {
        interface_gradient[shift + head * size + j] = moves[j] * (moves_gradient[j] - mean);
      }

      // Interpolate: u = g c + (1 - g) w.
      vector of_gate = {};
      for (int64_t i = 0; i < stride; i += L) {
        vector back = {};
        for (int64_t j = 0; j < size; j++) back += moves[j] * memnets::load(turned + i + j);
        of_gate += back * (memnets::load(found + i) - memnets::load(previous + i));
        store(gradient + weights_gradient + head * stride + i, back * (1 - gate));
        store(now + i, back * gate);
      }
      interface_gradient[unit + head] = sum<scalar>(of_gate) * gate * (1 - gate);

      this->score_gradient(before, found, kept + scores + head * stride, now, radial);
    }

    this->point(kept, pointed);
    if (heads == 2) {
      this->template content_gradient<2>(
          before, pointed, flow, radial, gradient, interface_gradient, sums);
    } else {
      this->template content_gradient<0>(
          before, pointed, flow, radial, gradient, interface_gradient, sums);
    }
    this->point_gradient(kept, kept + slopes, interface_gradient);
  }

 protected:
  // The interface, each part in its range; `kernel` is for a shift.
  void ranges(const scalar* interface, scalar* kept, scalar* kernel) const {
    std::memcpy(kept, interface, positive * sizeof(scalar));
    map(2 * heads, interface + positive, kept + positive,
        [](vector x) { return softplus<scalar>(x); });
    map(2 * heads, interface + positive, kept + slopes,
        [](vector x) { return sigmoid<scalar>(x); });
    map(heads + writes * width, interface + unit, kept + unit,
        [](vector x) { return sigmoid<scalar>(x); });
    std::memcpy(kept + add, interface + add, writes * width * sizeof(scalar));
    for (int64_t head = 0; head < heads; head++) {
      std::memcpy(kernel, interface + shift + head * size, size * sizeof(scalar));
      softmax(size, kernel);
      std::memcpy(kept + shift + head * size, kernel, size * sizeof(scalar));
    }
  }

  // The slot of a hard head: the first of those whose weight is next to the greatest.
  int64_t chosen(const scalar* row) const {
    scalar most = row[0];
    for (int64_t i = 1; i < slots; i++) most = row[i] > most ? row[i] : most;
    const scalar least = most * (1 - tie);
    for (int64_t i = 0; i < slots; i++) {
      if (row[i] >= least) return i;
    }
    return 0;  // of NaN alone
  }

  // u(i) = sum_j w(i - j) s(j), with w on the circle. Of u = 0 there is no logarithm.
  MEMNETS_INLINE void shifts(const scalar* moves, const scalar* circle, scalar* moved) const {
    for (int64_t i = 0; i < stride; i += L) {
      vector total = all(std::numeric_limits<scalar>::min());
      for (int64_t j = 0; j < size; j++) {
        total += moves[j] * memnets::load(circle + i + size - 1 - j);
      }
      store(moved + i, total);
    }
  }

  // A row, and both its ends continued by half a kernel round the circle of N slots.
  void round(const scalar* row, scalar* circle) const {
    const int64_t reach = size / 2;
    std::memcpy(circle + reach, row, slots * sizeof(scalar));
    ends(circle);
  }

  void ends(scalar* circle) const {
    const int64_t reach = size / 2;
    for (int64_t i = 0; i < reach; i++) circle[i] = circle[slots + i];
    for (int64_t i = 0; i < reach; i++) circle[reach + slots + i] = circle[reach + i];
    for (int64_t i = 2 * reach + slots; i < stride + 2 * reach; i++) circle[i] = 0;
  }

  // g c + (1 - g) w, on the circle. In this form rounding cannot make a weight negative.
  MEMNETS_INLINE void gated(const scalar* found, const scalar* previous, scalar gate,
                            scalar* circle) const {
    const int64_t reach = size / 2;
    for (int64_t i = 0; i < stride; i += L) {
      store(circle + reach + i,
            gate * memnets::load(found + i) + (1 - gate) * memnets::load(previous + i));
    }
    ends(circle);
  }

  // Read, then write M prod_h (1 - w_h e_h) + sum_h w_h a_h: one pass over the memory.
  // `reading` and `writing` are the numbers of heads, 0 = known at run time only.
  template <int reading, int writing>
  void read_and_write(const scalar* __restrict memory, scalar* __restrict next,
                      const scalar* __restrict kept, scalar* __restrict vectors,
                      scalar* __restrict sums) const {
    const int64_t R = reading ? reading : reads, H = writing ? writing : writes;
    const scalar* looking = next + weights;
    const scalar* marking = next + weights + R * stride;
    for (int64_t k = 0; k < R * width; k++) store(sums + k * L, vector{});
    blocks<scalar>(stride, [&](auto vectors_, int64_t i) {
      constexpr int V = decltype(vectors_)::value;
      vector square[V];
      for (int v = 0; v < V; v++) square[v] = all(epsilon);
      for (int64_t w = 0; w < width; w++) {
        vector number[V];
        for (int v = 0; v < V; v++) number[v] = memnets::load(memory + w * stride + i + v * L);
        for (int64_t head = 0; head < R; head++) {
          vector total = memnets::load(sums + (head * width + w) * L);
          for (int v = 0; v < V; v++) {
            total += memnets::load(looking + head * stride + i + v * L) * number[v];
          }
          store(sums + (head * width + w) * L, total);
        }
        if (H == 1) {
          const scalar out = kept[erase + w], in = kept[add + w];
          for (int v = 0; v < V; v++) {
            number[v] += memnets::load(marking + i + v * L) * (in - out * number[v]);
          }
        } else {
          vector added[V] = {};
          for (int64_t head = 0; head < H; head++) {
            const scalar out = kept[erase + head * width + w], in = kept[add + head * width + w];
            for (int v = 0; v < V; v++) {
              const vector weight = memnets::load(marking + head * stride + i + v * L);
              number[v] *= 1 - weight * out;
              added[v] += weight * in;
            }
          }
          for (int v = 0; v < V; v++) number[v] += added[v];
        }
        for (int v = 0; v < V; v++) {
          store(next + w * stride + i + v * L, number[v]);
          square[v] += number[v] * number[v];
        }
      }
      for (int v = 0; v < V; v++) store(next + lengths + i + v * L, inverse_root<scalar>(square[v]));
    });
    for (int64_t k = 0; k < R * width; k++) vectors[k] = sum<scalar>(memnets::load(sums + k * L));
  }

  // The reverse of read_and_write, also in one pass. The gradients of the weights are added to
  // `flow`; that of the memory is changed in place.
  template <int reading, int writing>
  void read_and_write_gradient(const scalar* __restrict memory, const scalar* __restrict next,
                               const scalar* __restrict kept,
                               const scalar* __restrict vectors_gradient,
                               scalar* __restrict gradient, scalar* __restrict interface_gradient,
                               scalar* __restrict flow, scalar* __restrict sums) const {
    const int64_t R = reading ? reading : reads, H = writing ? writing : writes;
    const scalar* looking = next + weights;
    const scalar* marking = next + weights + R * stride;
    scalar* of_looking = flow;
    scalar* of_marking = flow + R * stride;
    scalar* of_erase = sums;
    scalar* of_add = of_erase + H * width * L;
    scalar* before = of_add + H * width * L;  // products of the factors of the heads before
    for (int64_t k = 0; k < 2 * H * width; k++) store(sums + k * L, vector{});
    blocks<scalar>(stride, [&](auto vectors_, int64_t i) {
      constexpr int V = decltype(vectors_)::value;
      if constexpr (reading == 1 && writing == 1) {
        one_and_one<V>(memory, looking, marking, kept, vectors_gradient, gradient, of_looking,
                       of_marking, of_erase, of_add, i);
        return;
      }
      for (int64_t w = 0; w < width; w++) {
        vector number[V], now[V];
        for (int v = 0; v < V; v++) {
          number[v] = memnets::load(memory + w * stride + i + v * L);
          now[v] = memnets::load(gradient + w * stride + i + v * L);
        }
        if (H == 1) {
          const scalar out = kept[erase + w], in = kept[add + w];
          vector added = memnets::load(of_add + w * L), erased = memnets::load(of_erase + w * L);
          for (int v = 0; v < V; v++) {
            scalar* place = of_marking + i + v * L;
            const vector weight = memnets::load(marking + i + v * L), product = now[v] * number[v];
            added += weight * now[v];
            erased += weight * product;
            store(place, memnets::load(place) + in * now[v] - out * product);
            now[v] *= 1 - weight * out;
          }
          store(of_add + w * L, added);
          store(of_erase + w * L, erased);
        } else {
          // By products of the other heads: division by a head's own factor fails where it is 0.
          vector total[V];
          for (int v = 0; v < V; v++) total[v] = all(scalar(1));
          for (int64_t head = 0; head < H; head++) {
            const scalar out = kept[erase + head * width + w];
            for (int v = 0; v < V; v++) {
              store(before + (head * V + v) * L, total[v]);
              total[v] *= 1 - memnets::load(marking + head * stride + i + v * L) * out;
            }
          }
          vector behind[V];
          for (int v = 0; v < V; v++) behind[v] = now[v] * number[v];
          for (int64_t head = H - 1; head >= 0; head--) {
            const scalar out = kept[erase + head * width + w], in = kept[add + head * width + w];
            scalar* add_place = of_add + (head * width + w) * L;
            scalar* erase_place = of_erase + (head * width + w) * L;
            vector added = memnets::load(add_place), erased = memnets::load(erase_place);
            for (int v = 0; v < V; v++) {
              scalar* place = of_marking + head * stride + i + v * L;
              const vector weight = memnets::load(marking + head * stride + i + v * L);
              const vector product = behind[v] * memnets::load(before + (head * V + v) * L);
              added += weight * now[v];
              erased += weight * product;
              store(place, memnets::load(place) + in * now[v] - out * product);
              behind[v] *= 1 - weight * out;
            }
            store(add_place, added);
            store(erase_place, erased);
          }
          for (int v = 0; v < V; v++) now[v] *= total[v];
        }
        for (int64_t head = 0; head < R; head++) {
          const scalar given = vectors_gradient[head * width + w];
          for (int v = 0; v < V; v++) {
            scalar* place = of_looking + head * stride + i + v * L;
            store(place, memnets::load(place) + given * number[v]);
            now[v] += memnets::load(looking + head * stride + i + v * L) * given;
          }
        }
        for (int v = 0; v < V; v++) store(gradient + w * stride + i + v * L, now[v]);
      }
    });
    for (int64_t k = 0; k < H * width; k++) {
      const scalar out = kept[erase + k];
      interface_gradient[erase + k] =
          -sum<scalar>(memnets::load(of_erase + k * L)) * out * (1 - out);
      interface_gradient[add + k] = sum<scalar>(memnets::load(of_add + k * L));
    }
  }

  // A block of read_and_write_gradient for one head of each kind, all in registers.
  template <int V>
  MEMNETS_INLINE void one_and_one(
      const scalar* __restrict memory, const scalar* __restrict looking,
      const scalar* __restrict marking, const scalar* __restrict kept,
      const scalar* __restrict vectors_gradient, scalar* __restrict gradient,
      scalar* __restrict of_looking, scalar* __restrict of_marking, scalar* __restrict of_erase,
      scalar* __restrict of_add, int64_t i) const {
    vector look[V], mark[V], of_look[V], of_mark[V];
    for (int v = 0; v < V; v++) {
      look[v] = memnets::load(looking + i + v * L);
      mark[v] = memnets::load(marking + i + v * L);
      of_look[v] = memnets::load(of_looking + i + v * L);
      of_mark[v] = memnets::load(of_marking + i + v * L);
    }
    for (int64_t w = 0; w < width; w++) {
      const scalar out = kept[erase + w], in = kept[add + w], given = vectors_gradient[w];
      vector added = {}, erased = {};
      for (int v = 0; v < V; v++) {
        scalar* place = gradient + w * stride + i + v * L;
        const vector number = memnets::load(memory + w * stride + i + v * L);
        const vector now = memnets::load(place), product = now * number;
        added += mark[v] * now;
        erased += mark[v] * product;
        of_mark[v] += in * now - out * product;
        of_look[v] += given * number;
        store(place, now - mark[v] * out * now + look[v] * given);
      }
      store(of_add + w * L, memnets::load(of_add + w * L) + added);
      store(of_erase + w * L, memnets::load(of_erase + w * L) + erased);
    }
    for (int v = 0; v < V; v++) {
      store(of_looking + i + v * L, of_look[v]);
      store(of_marking + i + v * L, of_mark[v]);
    }
  }
};

// The same with hard weights, where no gradient is wanted: of each head the place alone is kept, and
// the memory is changed in place. A step takes O(H W), and O(N W) where a head looks for content.
template <typename scalar>
struct PlacedNTM final : NTM<scalar> {
  typedef NTM<scalar> Base;
  typedef Vector<scalar> vector;
  static constexpr int64_t L = lanes<scalar>;
  using Base::heads, Base::reads, Base::writes, Base::width, Base::size, Base::slots, Base::stride,
      Base::lengths, Base::unit, Base::shift, Base::erase, Base::add;

  scalar margin;  // by how much a move must win so that content cannot change the place

  PlacedNTM(int64_t reads, int64_t writes, int64_t width, int64_t size, int64_t slots,
            double least_sharpness, double epsilon, double tie, double margin)
      : Base(reads, writes, width, size, slots, true, least_sharpness, epsilon, tie),
        margin(margin) {
    this->bulk_size = lengths + stride;
    this->state_size = padded<scalar>(heads);
  }

  void load(int64_t b, const scalar* const* tensors, scalar* state, scalar* bulk) const override {
    this->turn_in(tensors[0] + b * slots * width, bulk);
    this->measure(bulk);
    for (int64_t head = 0; head < heads; head++) {
      const scalar* row = tensors[1] + (b * heads + head) * slots;
      state[head] = this->chosen(row);
    }
  }

  void save(int64_t b, const scalar* state, const scalar* bulk,
            scalar* const* tensors) const override {
    this->turn_out(bulk, tensors[0] + b * slots * width);
    for (int64_t head = 0; head < heads; head++) {
      scalar* row = tensors[1] + (b * heads + head) * slots;
      std::fill_n(row, slots, scalar(0));
      row[int64_t(state[head])] = 1;
    }
  }

  void forward(scalar* interface, const scalar* before, scalar* after, const scalar*, scalar* bulk,
               scalar* kept, scalar* vectors, scalar* scratch) const override {
    scalar* pointed = scratch;
    scalar* circle = pointed + padded<scalar>(heads * width);
    scalar* kernel = circle + this->wide;
    this->ranges(interface, kept, kernel);
    this->point(kept, pointed);
    for (int64_t head = 0; head < heads; head++) {
      const scalar* moves = kept + shift + head * size;
      const scalar gate = kept[unit + head];
      int64_t best = 0;
      for (int64_t j = 1; j < size; j++) best = moves[j] > moves[best] ? j : best;
      scalar second = 0;
      for (int64_t j = 0; j < size; j++) {
        if (j != best) second = std::max(second, moves[j]);
      }
      const int64_t place = int64_t(before[head]);
      if ((1 - gate) * (moves[best] - second) > gate + margin) {
        after[head] = (place + best - size / 2 + slots) % slots;
      } else {
        after[head] = look(bulk, kept, head, place, pointed, circle);
      }
    }
    for (int64_t head = 0; head < reads; head++) {
      const scalar* slot = bulk + int64_t(after[head]);
      for (int64_t w = 0; w < width; w++) vectors[head * width + w] = slot[w * stride];
    }
    // All heads erase, then all add: of heads on one slot, the first writes for all of them.
    for (int64_t head = 0; head < writes; head++) {
      const scalar* places = after + reads;
      if (std::find(places, places + head, places[head]) != places + head) continue;
      scalar* slot = bulk + int64_t(places[head]);
      scalar square = this->epsilon;
      for (int64_t w = 0; w < width; w++) {
        scalar number = slot[w * stride], added = 0;
        for (int64_t other = head; other < writes; other++) {
          if (places[other] != places[head]) continue;
          number *= 1 - kept[erase + other * width + w];
          added += kept[add + other * width + w];
        }
        number += added;
        slot[w * stride] = number;
        square += number * number;
      }
      slot[lengths] = 1 / std::sqrt(square);
    }
  }

  void backward(const Taken<scalar>*, int64_t, const scalar*, const scalar*, scalar*, scalar*,
                scalar*) const override {
    throw std::logic_error("an NTM of places has no gradients");
  }

 private:
  // The place of a head that looks at all slots, as NTM::forward finds it.
  int64_t look(const scalar* memory, scalar* kept, int64_t head, int64_t place,
               const scalar* pointed, scalar* circle) const {
    const int64_t reach = size / 2;
    const scalar* moves = kept + shift + head * size;
    const scalar gate = kept[unit + head];
    scalar* found = kept + this->content;
    scalar* moved = kept + this->shifted;
    this->score(1, memory, pointed + head * width, found);
    softmax(slots, found);
    for (int64_t i = 0; i < stride; i += L) {
      store(circle + reach + i, gate * memnets::load(found + i));
    }
    circle[reach + place] += 1 - gate;
    this->ends(circle);
    this->shifts(moves, circle, moved);
    return this->chosen(moved);
  }
};

}  // namespace memnets
