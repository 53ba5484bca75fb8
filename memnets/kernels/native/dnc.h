// The memory of the DNC (Graves et al. 2016): one step of one sequence, forward and backward.
//
// The definition is memnets/memories/dnc.py; the names here are those of its equations. Loops go
// over slots. Rows over the slots are padded with zeros: a padding slot has no weight, no links
// and no length, and so no effect on any other.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "common.h"
#include "content.h"
#include "memory.h"

namespace memnets {

// Call a function with a number from 1 to `most` as a constant.
template <int most, typename Function>
MEMNETS_INLINE void with_count(int64_t count, Function&& run) {
  if constexpr (most > 1) {
    if (count < most) return with_count<most - 1>(count, run);
  }
  run(std::integral_constant<int, most>());
}

// The links L [N, N] of a DNC, which take N^2 numbers and nearly all of its time.
template <typename scalar>
struct Links {
  using Vec = Vector<scalar>;
  static constexpr int64_t width = lanes<scalar>;

  // Links are kept at every `stride`-th step. Backward computes those between once more, in
  // registers, which takes less time than to fetch them from memory.
  static constexpr int stride = 8;

  const int64_t slots, span, rows;  // N; columns and rows with padding

  explicit Links(int64_t slots)
      : slots(slots), span(padded<scalar>(slots)), rows((slots + 3) / 4 * 4) {}

  int64_t size() const { return rows * span; }

  // Writes that lead from links that are kept to those before a step.
  struct Writes {
    int64_t count = 0;
    const scalar *written[stride], *precedence[stride];
  };

  // Whether a register that begins at column j holds the diagonal of one of `count` rows from i.
  static bool crosses(int64_t i, int64_t count, int64_t j) {
    return j < i + count && i < j + width;
  }

  // A slot never follows itself.
  template <int count>
  static MEMNETS_INLINE void clear_diagonal(Vec (&block)[count], int64_t i, int64_t j) {
    using Whole = typename Types<scalar>::whole;
    typename Types<scalar>::wholes lane;
    for (int64_t k = 0; k < width; k++) lane[k] = static_cast<Whole>(k);
    for (int a = 0; a < count; a++) {
      block[a] = lane == static_cast<Whole>(i + a - j) ? Vec{} : block[a];
    }
  }

  // L_t(i, j) = (1 - w(i) - w(j)) L_{t-1}(i, j) + w(i) p(j), and in the same pass over the links
  // f_h = L_t w_h and b_h = L_t^T w_h. A later group of heads finds the links `updated`.
  template <int heads, bool updated>
  void forward(
      const scalar* links, scalar* next, const scalar* written, const scalar* precedence,
      const scalar* weights, scalar* on, scalar* back) const {
    constexpr int block = 4;
    const int64_t span = this->span, rows = this->rows;  // stores might change those of the object
    std::fill(back, back + heads * span, scalar(0));
    for (int64_t i = 0; i < rows; i += block) {
      scalar row[block], rest[block], own[block][heads];
      Vec total_on[heads][block];
      for (int a = 0; a < block; a++) {
        row[a] = written[i + a];
        rest[a] = 1 - row[a];
        for (int h = 0; h < heads; h++) {
          total_on[h][a] = Vec{};
          own[a][h] = weights[h * span + i + a];
        }
      }
      for (int64_t j = 0; j < span; j += width) {
        Vec linked[block];
        for (int a = 0; a < block; a++) {
          linked[a] = load(links + (i + a) * span + j);
          // The next rows are in other places than the processor would guess.
          __builtin_prefetch(links + (i + a + block) * span + j);
        }
        if (!updated) {
          const Vec column = load(written + j), last = load(precedence + j);
          for (int a = 0; a < block; a++) {
            linked[a] = (rest[a] - column) * linked[a] + row[a] * last;
          }
          if (crosses(i, block, j)) clear_diagonal(linked, i, j);
          for (int a = 0; a < block; a++) store(next + (i + a) * span + j, linked[a]);
        }
        for (int h = 0; h < heads; h++) {
          const Vec weight = load(weights + h * span + j);
          Vec total = load(back + h * span + j);
          for (int a = 0; a < block; a++) {
            total_on[h][a] += linked[a] * weight;
            total += own[a][h] * linked[a];
          }
          store(back + h * span + j, total);
        }
      }
      for (int h = 0; h < heads; h++) sums<scalar>(total_on[h], on + h * span + i);
    }
    for (int h = 0; h < heads; h++) {
      std::fill(on + h * span + slots, on + (h + 1) * span, scalar(0));
    }
  }

  // Backward of `forward`, in one pass over the links and their gradient. It adds to the gradients
  // of the weights; with `last`, the group of heads that comes last, to those of the write and of
  // the precedence too, and the gradient of the links becomes that of L_{t-1}.
  template <int heads, bool last>
  void backward(
      const scalar* links, const Writes& replay, const scalar* written, const scalar* precedence,
      const scalar* weights, const scalar* on_gradient, const scalar* back_gradient,
      scalar* gradient, scalar* weights_gradient, scalar* written_gradient,
      scalar* precedence_gradient) const {
    constexpr int block = heads <= 2 ? 4 : 2;
    const int64_t span = this->span, rows = this->rows, count = replay.count;
    for (int64_t i = 0; i < rows; i += block) {
      scalar row[block], rest[block], own[block][heads], on[block][heads];
      scalar past[stride][block], past_rest[stride][block];
      Vec of_row[block], of_weights[heads][block];
#pragma GCC unroll 1
      for (int64_t k = 0; k < count; k++) {
        for (int a = 0; a < block; a++) {
          past[k][a] = replay.written[k][i + a];
          past_rest[k][a] = 1 - past[k][a];
        }
      }
      for (int a = 0; a < block; a++) {
        row[a] = written[i + a];
        rest[a] = 1 - row[a];
        of_row[a] = Vec{};
        for (int h = 0; h < heads; h++) {
          of_weights[h][a] = Vec{};
          own[a][h] = weights[h * span + i + a];
          on[a][h] = on_gradient[h * span + i + a];
        }
      }
      for (int64_t j = 0; j < span; j += width) {
        const bool diagonal = crosses(i, block, j);
        const Vec column = load(written + j), p = load(precedence + j);
        Vec old[block], linked[block], slope[block];
        for (int a = 0; a < block; a++) {
          old[a] = load(links + (i + a) * span + j);
          __builtin_prefetch(links + (i + a + block) * span + j);
          __builtin_prefetch(gradient + (i + a + block) * span + j);
        }
#pragma GCC unroll 1
        for (int64_t k = 0; k < count; k++) {
          const Vec then = load(replay.written[k] + j), order = load(replay.precedence[k] + j);
          for (int a = 0; a < block; a++) {
            old[a] = (past_rest[k][a] - then) * old[a] + past[k][a] * order;
          }
        }
        if (diagonal) clear_diagonal(old, i, j);
        for (int a = 0; a < block; a++) {
          linked[a] = (rest[a] - column) * old[a] + row[a] * p;
          slope[a] = load(gradient + (i + a) * span + j);
        }
        if (diagonal) clear_diagonal(linked, i, j);
        for (int h = 0; h < heads; h++) {
          const Vec weight = load(weights + h * span + j);
          const Vec back = load(back_gradient + h * span + j);
          Vec total = load(weights_gradient + h * span + j);
          for (int a = 0; a < block; a++) {
            of_weights[h][a] += linked[a] * back;
            total += on[a][h] * linked[a];
            slope[a] += on[a][h] * weight;
            slope[a] += own[a][h] * back;
          }
          store(weights_gradient + h * span + j, total);
        }
        // The forward pass set the diagonal to 0, so nothing flows back through it.
        if (diagonal) clear_diagonal(slope, i, j);
        if (last) {
          Vec of_column = load(written_gradient + j), of_p = load(precedence_gradient + j);
          for (int a = 0; a < block; a++) {
            of_p += row[a] * slope[a];
            of_row[a] += slope[a] * (p - old[a]);
            of_column -= slope[a] * old[a];
            slope[a] *= rest[a] - column;
          }
          store(written_gradient + j, of_column);
          store(precedence_gradient + j, of_p);
        }
        for (int a = 0; a < block; a++) store(gradient + (i + a) * span + j, slope[a]);
      }
      scalar totals[block];
      if (last) {
        sums<scalar>(of_row, totals);
        for (int a = 0; a < block; a++) written_gradient[i + a] += totals[a];
      }
      for (int h = 0; h < heads; h++) {
        sums<scalar>(of_weights[h], totals);
        for (int a = 0; a < block; a++) weights_gradient[h * span + i + a] += totals[a];
      }
    }
  }
};

// The order of the slots by usage, and weights on those that are free.
template <typename scalar>
struct Allocation {
  const int64_t slots;
  const scalar epsilon;

  static constexpr bool single = sizeof(scalar) == 4;
  using Bits = std::conditional_t<single, uint32_t, uint64_t>;
  // Usage and number of a slot in one whole number, in the order that is wanted.
  using Slot = std::conditional_t<single, uint64_t, unsigned __int128>;
  using Place = std::conditional_t<single, int32_t, int64_t>;

  // Whole numbers in the order of the numbers. NaN has a place too, or a sort might not end.
  static Bits sortable(scalar number) {
    number += 0;  // -0 becomes 0: slots of equal usage keep their order
    Bits bits;
    std::memcpy(&bits, &number, sizeof bits);
    const Bits sign = Bits(1) << (8 * sizeof(Bits) - 1);
    return bits & sign ? ~bits : bits | sign;
  }

  // Put slots in order of usage, least first, equal ones in their own order. `from` is the order
  // of the step before, which is nearly right: most slots keep their places.
  void sort(const scalar* usage, const Place* from, Place* order, Slot* sorted) const {
    for (int64_t k = 0; k < slots; k++) {
      sorted[k] = Slot(sortable(usage[from[k]])) << 8 * sizeof(Bits) | Slot(from[k]);
    }
    int64_t moves = 0;
    for (int64_t k = 1; k < slots; k++) {
      const Slot slot = sorted[k];
      int64_t place = k;
      for (; place > 0 && slot < sorted[place - 1]; place--) sorted[place] = sorted[place - 1];
      sorted[place] = slot;
      moves += k - place;
      if (moves > 8 * slots) {
        std::sort(sorted, sorted + slots);
        break;
      }
    }
    for (int64_t k = 0; k < slots; k++) order[k] = static_cast<Place>(Bits(sorted[k]));
  }

  // a(phi_k) = (1 - u(phi_k)) prod_{i < k} u(phi_i). In order of usage, `free` is 1 - u(phi_k) and
  // `before` the product. Rows are padded.
  void forward(
      const scalar* usage, const Place* order, scalar* allocation, scalar* free,
      scalar* before) const {
    const int64_t slots = this->slots, span = padded<scalar>(slots);
    const scalar epsilon = this->epsilon;
    for (int64_t k = 0; k < slots; k++) free[k] = (1 - epsilon) * (1 - usage[order[k]]);
    std::fill(free + slots, free + span, scalar(0));
    std::fill(before, before + span, scalar(0));
    scalar product = 1;
    // Few free slots are enough for a product of 0: at the start, seven of float32.
    for (int64_t k = 0; k < slots && product != 0; k++) {
      before[k] = product;
      product *= 1 - free[k];
    }
    std::fill(allocation + slots, allocation + span, scalar(0));
    for (int64_t k = 0; k < slots; k++) allocation[order[k]] = free[k] * before[k];
  }

  // Add to the gradient of the usage. A slot's usage is a factor of all later products.
  void backward(
      const Place* order, const scalar* free, const scalar* before, const scalar* towards,
      scalar* usage_gradient, scalar* scratch) const {
    const int64_t slots = this->slots, span = padded<scalar>(slots);
    scalar *sorted = scratch, *later = scratch + span;
    for (int64_t k = 0; k < slots; k++) sorted[k] = towards[order[k]];
    std::fill(sorted + slots, sorted + span, scalar(0));
    scalar total = 0;
    for (int64_t k = slots - 1; k >= 0; k--) {
      later[k] = total;
      total += sorted[k] * (free[k] * before[k]);
    }
    std::fill(later + slots, later + span, scalar(0));
    for (int64_t k = 0; k < span; k += lanes<scalar>) {
      const Vector<scalar> of_free =
          load(sorted + k) * load(before + k) - load(later + k) / (1 - load(free + k));
      store(sorted + k, (1 - epsilon) * of_free);
    }
    for (int64_t k = 0; k < slots; k++) usage_gradient[order[k]] -= sorted[k];
  }
};

template <typename scalar>
struct DNC final : Memory<scalar> {
  using Vec = Vector<scalar>;
  using Place = typename Allocation<scalar>::Place;
  using Slot = typename Allocation<scalar>::Slot;

  const int64_t slots, width, reads, span;
  const scalar epsilon;  // within the roots of the cosine
  const Allocation<scalar> allocation;
  const Links<scalar> links;
  // Where the parts of the interface begin: keys at 0, then strengths, gates and erase, modes, add.
  const int64_t strengths, unit, modes, add;

  DNC(int64_t reads, int64_t width, int64_t slots, double epsilon, double usage_epsilon)
      : slots(slots), width(width), reads(reads), span(padded<scalar>(slots)), epsilon(epsilon),
        allocation{slots, scalar(usage_epsilon)}, links(slots), strengths((reads + 1) * width),
        unit(strengths + reads + 1), modes(unit + reads + 2 + width), add(modes + 3 * reads) {
    this->interface_size = add + width;
    this->read_size = reads * width;
    this->parts = {slots * width, slots, slots, slots * slots, slots, reads * slots};
    this->state_size = span * (reads + 5);
    this->bulk_size = links.size() + span * width;
    this->stride = Links<scalar>::stride;
    // The links and their gradient should stay in a processor's own memory of about 1 MB.
    const int64_t near = (int64_t(5) << 17) / (this->bulk_size * sizeof(scalar));
    this->rows = std::max<int64_t>(2, std::min<int64_t>(near, 16));
    this->normal = true;
    this->kept_size = span * (4 * reads + 5) + padded<scalar>(this->interface_size);
    this->gradient_size = span * (reads + 3) + this->bulk_size;
    this->scratch_size = span * std::max<int64_t>(2 * width + 3 * reads + 3, 2) +
                         2 * padded<scalar>((reads + 1) * width) + (2 * reads + 1) * lanes<scalar>;
  }

  // -- buffers ------------------------------------------------------------------------------------

  // Takes rows over the slots off a buffer, one after the other.
  template <typename number>
  struct Cutter {
    number* at;
    const int64_t span;
    number* operator()(int64_t rows) {
      number* here = at;
      at += rows * span;
      return here;
    }
  };

  // The bulk of a state: the links and the memory [W, N].
  template <typename number>
  struct Bulk {
    number *links, *memory;
  };

  template <typename number>
  Bulk<number> bulk_of(number* at) const {
    return {at, at + links.size()};
  }

  // All else of a state. `inverse` is 1 / |M|; `order` is that of the slots by usage.
  template <typename number>
  struct State {
    number *inverse, *usage, *precedence, *written, *weights, *order;
  };

  template <typename number>
  State<number> state_of(number* at) const {
    Cutter<number> cut{at, span};
    // Within braces the calls are made from left to right.
    return {cut(1), cut(1), cut(1), cut(1), cut(reads), cut(1)};
  }

  template <typename number>
  struct Kept {
    number *scores, *content, *allocation, *free, *before, *back, *on, *interface;
  };

  template <typename number>
  Kept<number> kept_of(number* at) const {
    Cutter<number> cut{at, span};
    return {cut(reads + 1), cut(reads + 1), cut(1), cut(1), cut(1), cut(reads), cut(reads), cut(0)};
  }

  template <typename number>
  struct Gradient {
    number *usage, *precedence, *written, *weights, *links, *memory;
  };

  template <typename number>
  Gradient<number> gradient_of(number* at) const {
    Cutter<number> cut{at, span};
    number *usage = cut(1), *precedence = cut(1), *written = cut(1), *weights = cut(reads);
    const auto bulk = bulk_of(cut.at);
    return {usage, precedence, written, weights, bulk.links, bulk.memory};
  }

  // -- from and to tensors: M, u, p, L, w of the write, w of the reads ----------------------------

  void rows_in(int64_t rows, const scalar* from, scalar* to) const {
    for (int64_t row = 0; row < rows; row++, from += slots, to += span) {
      std::copy(from, from + slots, to);
      std::fill(to + slots, to + span, scalar(0));
    }
  }

  void rows_out(int64_t rows, const scalar* from, scalar* to) const {
    for (int64_t row = 0; row < rows; row++, from += span, to += slots) {
      std::copy(from, from + slots, to);
    }
  }

  void bulk_in(int64_t b, const scalar* const* tensors, const Bulk<scalar>& bulk) const {
    turn_in(slots, width, span, tensors[0] + b * slots * width, bulk.memory);
    std::memset(bulk.links + slots * span, 0, (links.rows - slots) * span * sizeof(scalar));
    rows_in(slots, tensors[3] + b * slots * slots, bulk.links);
  }

  void bulk_out(int64_t b, const Bulk<const scalar>& bulk, scalar* const* tensors) const {
    turn_out(slots, width, span, bulk.memory, tensors[0] + b * slots * width);
    rows_out(slots, bulk.links, tensors[3] + b * slots * slots);
  }

  void load(
      int64_t b, const scalar* const* tensors, scalar* state, scalar* bulk) const override {
    const auto found = state_of(state);
    const auto whole = bulk_of(bulk);
    bulk_in(b, tensors, whole);
    rows_in(1, tensors[1] + b * slots, found.usage);
    rows_in(1, tensors[2] + b * slots, found.precedence);
    rows_in(1, tensors[4] + b * slots, found.written);
    rows_in(reads, tensors[5] + b * reads * slots, found.weights);
    Place* order = reinterpret_cast<Place*>(found.order);
    for (int64_t k = 0; k < slots; k++) order[k] = static_cast<Place>(k);
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      Vec squares = all(epsilon);
      for (int64_t w = 0; w < width; w++) {
        const Vec value = memnets::load(whole.memory + w * span + j);
        squares += value * value;
      }
      store(found.inverse + j, inverse_root<scalar>(squares));
    }
    clear_padding(found.inverse);
  }

  void save(
      int64_t b, const scalar* state, const scalar* bulk, scalar* const* tensors) const override {
    const auto found = state_of(state);
    bulk_out(b, bulk_of(bulk), tensors);
    rows_out(1, found.usage, tensors[1] + b * slots);
    rows_out(1, found.precedence, tensors[2] + b * slots);
    rows_out(1, found.written, tensors[4] + b * slots);
    rows_out(reads, found.weights, tensors[5] + b * reads * slots);
  }

  void load_gradient(
      int64_t b, const scalar* const* tensors, scalar* gradient) const override {
    const auto found = gradient_of(gradient);
    bulk_in(b, tensors, {found.links, found.memory});
    rows_in(1, tensors[1] + b * slots, found.usage);
    rows_in(1, tensors[2] + b * slots, found.precedence);
    rows_in(1, tensors[4] + b * slots, found.written);
    rows_in(reads, tensors[5] + b * reads * slots, found.weights);
  }

  void save_gradient(
      int64_t b, const scalar* gradient, scalar* const* tensors) const override {
    const auto found = gradient_of(gradient);
    bulk_out(b, {found.links, found.memory}, tensors);
    rows_out(1, found.usage, tensors[1] + b * slots);
    rows_out(1, found.precedence, tensors[2] + b * slots);
    rows_out(1, found.written, tensors[4] + b * slots);
    rows_out(reads, found.weights, tensors[5] + b * reads * slots);
  }

  // -- by content ---------------------------------------------------------------------------------

  Grid grid(int64_t heads) const { return {heads, width, span, span}; }

  static MEMNETS_INLINE Vec get(const scalar* from) { return memnets::load(from); }

  // A padding slot would have a length of epsilon.
  void clear_padding(scalar* row) const { std::fill(row + slots, row + span, scalar(0)); }

  // Keys scaled to the length of their strengths: a product with one is beta times the cosine, but
  // for the length of the slot.
  void point(const scalar* interface, scalar* pointed) const {
    for (int64_t h = 0; h <= reads; h++) {
      const scalar* key = interface + h * width;
      const scalar length = std::sqrt(dot(width, key, key) + epsilon);
      const scalar scale = (1 + interface[strengths + h]) / length;
      for (int64_t w = 0; w < width; w++) pointed[h * width + w] = key[w] * scale;
    }
  }

  void point_backward(
      const scalar* interface, const scalar* pointed_gradient, scalar* interface_gradient) const {
    for (int64_t h = 0; h <= reads; h++) {
      const scalar *key = interface + h * width, *towards = pointed_gradient + h * width;
      const scalar softplus = interface[strengths + h];
      const scalar inverse = 1 / std::sqrt(dot(width, key, key) + epsilon);
      // A unit vector moves only across its direction: the part along it is the strength's.
      const scalar along = dot(width, towards, key) * inverse;
      const scalar scale = (1 + softplus) * inverse;
      for (int64_t w = 0; w < width; w++) {
        interface_gradient[h * width + w] = (towards[w] - key[w] * inverse * along) * scale;
      }
      interface_gradient[strengths + h] = along * -std::expm1(-softplus);
    }
  }

  // Scores and weights by content.
  void contents(
      int64_t heads, const scalar* pointed, const scalar* memory, const scalar* inverse,
      scalar* scores, scalar* weights) const {
    std::fill(scores, scores + heads * span, scalar(0));
    add_products(grid(heads), pointed, memory, scores);
    for (int64_t h = 0; h < heads; h++) {
      for (int64_t j = 0; j < span; j += lanes<scalar>) {
        const Vec score = get(scores + h * span + j) * get(inverse + j);
        store(scores + h * span + j, score);
        store(weights + h * span + j, score);
      }
      softmax(slots, weights + h * span);
    }
  }

  // Backward of `contents`. `towards` holds the gradients of the weights and is changed. The
  // gradient of the memory is added to, that of the pointed keys is set. With `reading`, the
  // gradient of reads with `weights` joins the memory's: one pass in place of two.
  template <int heads, bool reading>
  void contents_backward(
      scalar* towards, const scalar* content, const scalar* scores, const scalar* inverse,
      const scalar* pointed, const scalar* memory, const scalar* weights, const scalar* vectors,
      scalar* memory_gradient, scalar* pointed_gradient, scalar* radial) const {
    std::fill(radial, radial + span, scalar(0));
    for (int h = 0; h < heads; h++) {
      softmax_gradient(slots, towards + h * span, content + h * span);
      for (int64_t j = 0; j < span; j += lanes<scalar>) {
        const Vec scale = get(inverse + j), slope = get(towards + h * span + j) * scale;
        store(towards + h * span + j, slope);
        // The length of a slot is part of its score; the gradient points along the slot.
        store(radial + j, get(radial + j) + slope * get(scores + h * span + j) * scale);
      }
    }
    for (int64_t w = 0; w < width; w++) {
      Vec total[heads] = {};
      for (int64_t j = 0; j < span; j += lanes<scalar>) {
        const Vec value = get(memory + w * span + j);
        Vec gradient = get(memory_gradient + w * span + j) - get(radial + j) * value;
        for (int h = 0; h < heads; h++) {
          const Vec slope = get(towards + h * span + j);
          total[h] += slope * value;
          gradient += slope * pointed[h * width + w];
          if (reading) gradient += get(weights + h * span + j) * vectors[h * width + w];
        }
        store(memory_gradient + w * span + j, gradient);
      }
      for (int h = 0; h < heads; h++) pointed_gradient[h * width + w] = sum<scalar>(total[h]);
    }
  }

  // -- usage --------------------------------------------------------------------------------------

  // u_t = (u + (1 - u) w) prod_h (1 - f_h w_h).
  void use(const State<const scalar>& past, const scalar* free_gates, scalar* usage) const {
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      Vec kept = all(scalar(1));
      for (int64_t h = 0; h < reads; h++) {
        kept *= 1 - free_gates[h] * get(past.weights + h * span + j);
      }
      const Vec before = get(past.usage + j);
      store(usage + j, (before + (1 - before) * get(past.written + j)) * kept);
    }
  }

  // Backward of `use`. It sets the gradients of u_{t-1}, of w_{t-1}^w and of the free gates, and
  // adds to those of the read weights. `heads` is the number of read heads, or 0 for any number.
  template <int heads>
  void use_backward(
      const State<const scalar>& past, const scalar* free_gates, const Gradient<scalar>& gradient,
      scalar* free_gradient, scalar* scratch) const {
    const int64_t span = this->span, reads = heads ? heads : this->reads;
    Vec few[2 * std::max(heads, 1) + 1];
    // The sums over slots, and the products of the factors of all heads from one on.
    Vec* const totals = heads ? few : reinterpret_cast<Vec*>(scratch);
    Vec* const after = totals + reads;
    for (int64_t h = 0; h < reads; h++) totals[h] = Vec{};
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      after[reads] = all(scalar(1));
      for (int64_t h = reads - 1; h >= 0; h--) {
        after[h] = after[h + 1] * (1 - free_gates[h] * get(past.weights + h * span + j));
      }
      const Vec usage = get(past.usage + j), written = get(past.written + j);
      const Vec towards = get(gradient.usage + j), of_filled = towards * after[0];
      store(gradient.usage + j, of_filled * (1 - written));
      store(gradient.written + j, of_filled * (1 - usage));
      // That of a factor, times the factors of the heads before. No division: one may be 0.
      Vec of_factor = towards * (usage + (1 - usage) * written);
      for (int64_t h = 0; h < reads; h++) {
        const Vec weight = get(past.weights + h * span + j), own = of_factor * after[h + 1];
        scalar* of_weight = gradient.weights + h * span + j;
        totals[h] += own * weight;
        store(of_weight, get(of_weight) - own * free_gates[h]);
        of_factor *= 1 - free_gates[h] * weight;
      }
    }
    for (int64_t h = 0; h < reads; h++) {
      const scalar gate = free_gates[h];
      free_gradient[h] = -sum<scalar>(totals[h]) * gate * (1 - gate);
    }
  }

  // -- a step -------------------------------------------------------------------------------------

  // The parts of the interface in their ranges. Strengths keep their softplus, without the 1.
  void activate(const scalar* raw, scalar* interface) const {
    std::copy(raw, raw + this->interface_size, interface);
    map(unit - strengths, raw + strengths, interface + strengths,
        [](Vec x) { return softplus<scalar>(x); });
    map(modes - unit, raw + unit, interface + unit, [](Vec x) { return sigmoid<scalar>(x); });
    for (int64_t i = modes; i < add; i += 3) {
      scalar* mode = interface + i;
      const scalar most = std::max(mode[0], std::max(mode[1], mode[2]));
      for (int k = 0; k < 3; k++) mode[k] = std::exp(mode[k] - most);
      const scalar total = mode[0] + mode[1] + mode[2];
      for (int k = 0; k < 3; k++) mode[k] /= total;
    }
  }

  // M_t = M_{t-1} + w (v - e M_{t-1}), the same as M (1 - w e) + w v for a single head.
  static MEMNETS_INLINE Vec write(Vec value, Vec weight, scalar erase, scalar add) {
    return value + weight * (add - erase * value);
  }

  void forward(
      scalar* raw, const scalar* before, scalar* after, const scalar* bulk, scalar* next_bulk,
      scalar* kept_numbers, scalar* vectors, scalar* scratch) const override {
    const auto past = state_of(before);
    const auto next = state_of(after);
    const auto from = bulk_of(bulk);
    const auto to = bulk_of(next_bulk);
    const auto kept = kept_of(kept_numbers);
    activate(raw, kept.interface);
    const scalar *gates = kept.interface + unit, *erase = gates + reads + 2;
    const scalar *mode = kept.interface + modes, *added = kept.interface + add;
    Slot* sorting = reinterpret_cast<Slot*>(scratch);
    scalar* pointed = scratch + 2 * span;
    point(kept.interface, pointed);

    use(past, gates, next.usage);
    Place* order = reinterpret_cast<Place*>(next.order);
    allocation.sort(next.usage, reinterpret_cast<const Place*>(past.order), order, sorting);
    allocation.forward(next.usage, order, kept.allocation, kept.free, kept.before);

    // Write: w = g_w (g_a a + (1 - g_a) c).
    scalar* content = kept.content + reads * span;
    contents(
        1, pointed + reads * width, from.memory, past.inverse, kept.scores + reads * span, content);
    Vec mass = {};
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      const Vec by_content = get(content + j);
      const Vec chosen = by_content + gates[reads] * (get(kept.allocation + j) - by_content);
      const Vec written = gates[reads + 1] * chosen;
      mass += written;
      store(next.written + j, written);
      Vec squares = all(epsilon);
      for (int64_t w = 0; w < width; w++) {
        const Vec value = write(get(from.memory + w * span + j), written, erase[w], added[w]);
        store(to.memory + w * span + j, value);
        squares += value * value;
      }
      store(next.inverse + j, inverse_root<scalar>(squares));
    }
    clear_padding(next.inverse);

    // Links; then the precedence, which the links take from the step before.
    by_heads(reads, [&](auto group, int64_t head) {
      const scalar* weights = past.weights + head * span;
      scalar *on = kept.on + head * span, *back = kept.back + head * span;
      if (head == 0) {
        links.template forward<group.value, false>(
            from.links, to.links, next.written, past.precedence, weights, on, back);
      } else {
        links.template forward<group.value, true>(
            to.links, to.links, next.written, past.precedence, weights, on, back);
      }
    });
    const scalar rest = 1 - sum<scalar>(mass);
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      store(next.precedence + j, rest * get(past.precedence + j) + get(next.written + j));
    }

    // Read: w = pi_1 b + pi_2 c + pi_3 f.
    contents(reads, pointed, to.memory, next.inverse, kept.scores, kept.content);
    for (int64_t h = 0; h < reads; h++) {
      for (int64_t j = h * span; j < (h + 1) * span; j += lanes<scalar>) {
        const Vec weight = mode[3 * h] * get(kept.back + j) +
                           mode[3 * h + 1] * get(kept.content + j) +
                           mode[3 * h + 2] * get(kept.on + j);
        store(next.weights + j, weight);
      }
    }
    read_vectors(grid(reads), next.weights, to.memory, vectors);
  }

  // The memory before the last of some steps, and after it, from a memory that was kept.
  template <int count>
  void replay(
      const Taken<scalar>* steps, const scalar* kept, scalar* before, scalar* after) const {
    const int64_t span = this->span;
    const scalar *erase[count], *added[count], *written[count];
    for (int k = 0; k < count; k++) {
      const scalar* interface = kept_of(steps[k].kept).interface;
      erase[k] = interface + unit + reads + 2;
      added[k] = interface + add;
      written[k] = state_of(steps[k].after).written;
    }
    for (int64_t w = 0; w < width; w++) {
      for (int64_t j = 0; j < span; j += lanes<scalar>) {
        Vec value = get(kept + w * span + j);
        for (int k = 0; k < count; k++) {
          if (k + 1 == count) store(before + w * span + j, value);
          value = write(value, get(written[k] + j), erase[k][w], added[k][w]);
        }
        store(after + w * span + j, value);
      }
    }
  }

  void backward(
      const Taken<scalar>* steps, int64_t count, const scalar* bulk,
      const scalar* vectors_gradient, scalar* state_gradient, scalar* interface_gradient,
      scalar* scratch) const override {
    const auto past = state_of(steps[count - 1].before);
    const auto next = state_of(steps[count - 1].after);
    const auto kept = kept_of(steps[count - 1].kept);
    const auto gradient = gradient_of(state_gradient);
    const scalar *gates = kept.interface + unit, *erase = gates + reads + 2;
    const scalar *mode = kept.interface + modes, *added = kept.interface + add;
    scalar *of_gates = interface_gradient + unit, *of_erase = of_gates + reads + 2;
    Cutter<scalar> cut{scratch, span};
    scalar *memory = cut(width), *next_memory = cut(width);
    scalar *of_back = cut(reads), *of_content = cut(reads), *of_on = cut(reads);
    scalar *radial = cut(1), *of_free = cut(1), *of_sought = cut(1);
    Cutter<scalar> cut_keys{cut.at, padded<scalar>((reads + 1) * width)};
    scalar *pointed = cut_keys(1), *pointed_gradient = cut_keys(1), *spare = cut_keys(0);
    point(kept.interface, pointed);
    with_count<Links<scalar>::stride>(count, [&](auto number) {
      replay<number.value>(steps, bulk_of(bulk).memory, memory, next_memory);
    });

    // Read. The gradients of b, c and f, and of the modes.
    add_products(grid(reads), vectors_gradient, next_memory, gradient.weights);
    for (int64_t h = 0; h < reads; h++) {
      Vec total[3] = {};
      for (int64_t j = h * span; j < (h + 1) * span; j += lanes<scalar>) {
        const Vec slope = get(gradient.weights + j);
        total[0] += slope * get(kept.back + j);
        total[1] += slope * get(kept.content + j);
        total[2] += slope * get(kept.on + j);
        store(of_back + j, slope * mode[3 * h]);
        store(of_content + j, slope * mode[3 * h + 1]);
        store(of_on + j, slope * mode[3 * h + 2]);
        store(gradient.weights + j, Vec{});  // from here on that of the weights before
      }
      scalar slopes[3], mean = 0;
      for (int k = 0; k < 3; k++) {
        slopes[k] = sum<scalar>(total[k]);
        mean += slopes[k] * mode[3 * h + k];
      }
      for (int k = 0; k < 3; k++) {
        interface_gradient[modes + 3 * h + k] = (slopes[k] - mean) * mode[3 * h + k];
      }
    }
    by_heads(reads, [&](auto group, int64_t head) {
      const int64_t at = head * span, key = head * width;
      contents_backward<group.value, true>(
          of_content + at, kept.content + at, kept.scores + at, next.inverse, pointed + key,
          next_memory, next.weights + at, vectors_gradient + key, gradient.memory,
          pointed_gradient + key, radial);
    });

    // Precedence: p = (1 - sum w) p + w. Then the links.
    Vec mass = {}, pushed = {};
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      mass += get(next.written + j);
      pushed += get(gradient.precedence + j) * get(past.precedence + j);
    }
    const scalar rest = 1 - sum<scalar>(mass), of_mass = sum<scalar>(pushed);
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      const Vec slope = get(gradient.precedence + j);
      store(gradient.written + j, get(gradient.written + j) + slope - of_mass);
      store(gradient.precedence + j, slope * rest);
    }
    typename Links<scalar>::Writes writes;
    for (int64_t k = 0; k + 1 < count; k++) {
      writes.written[k] = state_of(steps[k].after).written;
      writes.precedence[k] = state_of(steps[k].before).precedence;
      writes.count++;
    }
    by_heads(reads, [&](auto group, int64_t head) {
      const int64_t at = head * span;
      auto run = [&](auto last) {
        links.template backward<group.value, last.value>(
            bulk_of(bulk).links, writes, next.written, past.precedence, past.weights + at,
            of_on + at, of_back + at, gradient.links, gradient.weights + at, gradient.written,
            gradient.precedence);
      };
      if (head + group.value == reads) {
        run(std::true_type());
      } else {
        run(std::false_type());
      }
    });

    // Write: M = M + w (v - e M).
    for (int64_t w = 0; w < width; w++) {
      Vec of_add = {}, of_erased = {};
      for (int64_t j = 0; j < span; j += lanes<scalar>) {
        const Vec value = get(memory + w * span + j), slope = get(gradient.memory + w * span + j);
        const Vec moved = slope * get(next.written + j);
        const Vec of_weight = get(gradient.written + j) + slope * (added[w] - erase[w] * value);
        of_add += moved;
        of_erased += moved * value;
        store(gradient.written + j, of_weight);
        store(gradient.memory + w * span + j, slope - erase[w] * moved);
      }
      interface_gradient[add + w] = sum<scalar>(of_add);
      of_erase[w] = -sum<scalar>(of_erased) * erase[w] * (1 - erase[w]);
    }

    // w = g_w (g_a a + (1 - g_a) c).
    const scalar by_allocation = gates[reads], open = gates[reads + 1];
    const scalar* content = kept.content + reads * span;
    Vec of_open = {}, of_allocation = {};
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      const Vec by_content = get(content + j), beyond = get(kept.allocation + j) - by_content;
      const Vec slope = get(gradient.written + j), scaled = slope * open;
      of_open += slope * (by_content + by_allocation * beyond);
      of_allocation += scaled * beyond;
      store(of_free + j, scaled * by_allocation);
      store(of_sought + j, scaled * (1 - by_allocation));
    }
    of_gates[reads] = sum<scalar>(of_allocation) * by_allocation * (1 - by_allocation);
    of_gates[reads + 1] = sum<scalar>(of_open) * open * (1 - open);
    contents_backward<1, false>(
        of_sought, content, kept.scores + reads * span, past.inverse, pointed + reads * width,
        memory, nullptr, nullptr, gradient.memory, pointed_gradient + reads * width, radial);
    point_backward(kept.interface, pointed_gradient, interface_gradient);

    allocation.backward(
        reinterpret_cast<const Place*>(next.order), kept.free, kept.before, of_free, gradient.usage,
        of_back);  // two rows that nobody reads any more
    switch (reads) {
      case 1: use_backward<1>(past, gates, gradient, of_gates, spare); break;
      case 2: use_backward<2>(past, gates, gradient, of_gates, spare); break;
      case 4: use_backward<4>(past, gates, gradient, of_gates, spare); break;
      default: use_backward<0>(past, gates, gradient, of_gates, spare);
    }
  }
};

}  // namespace memnets
