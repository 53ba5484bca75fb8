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
#include "memory.h"

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

// The links L ``[N, N]`` of a DNC, which take N^2 numbers and nearly all of its time.
template <typename scalar>
struct Links {
  using Vec = Vector<scalar>;
  static constexpr int64_t width = lanes<scalar>;

  // Links are kept after every `stride` steps. Backward computes those between once more, in
  // registers, which takes less time than to fetch them from memory.
  static constexpr int64_t stride = 4;

  const int64_t slots, span, rows;  // N; columns and rows with padding

  explicit Links(int64_t slots)
      : slots(slots), span(padded<scalar>(slots)), rows((slots + 3) / 4 * 4) {}

  int64_t size() const { return rows * span; }

  // Writes that lead from links that are kept to those before a step.
  struct Replay {
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
    for (int64_t k = 0; k < width; ++k) lane[k] = static_cast<Whole>(k);
    for (int a = 0; a < count; ++a) {
      block[a] = lane == static_cast<Whole>(i + a - j) ? Vec{} : block[a];
    }
  }

  // L_t(i, j) = (1 - w(i) - w(j)) L_{t-1}(i, j) + w(i) p(j), and in the same pass over the links
  // f_h = L_t w_h and b_h = L_t^T w_h. A later group of heads finds the links `updated`.
  template <int heads, bool updated>
  void forward(
      const scalar* links, scalar* next, const scalar* written, const scalar* precedence,
      const scalar* weights, scalar* on, scalar* back) const {
    constexpr int block = heads <= 2 ? 4 : 2;
    std::fill(back, back + heads * span, scalar(0));
    for (int64_t i = 0; i < rows; i += block) {
      scalar row[block], rest[block], own[block][heads];
      Vec sums[block][heads];
      for (int a = 0; a < block; ++a) {
        row[a] = written[i + a];
        rest[a] = 1 - row[a];
        for (int h = 0; h < heads; ++h) {
          sums[a][h] = Vec{};
          own[a][h] = weights[h * span + i + a];
        }
      }
      for (int64_t j = 0; j < span; j += width) {
        Vec linked[block];
        for (int a = 0; a < block; ++a) linked[a] = load(links + (i + a) * span + j);
        if (!updated) {
          const Vec column = load(written + j), last = load(precedence + j);
          for (int a = 0; a < block; ++a) {
            linked[a] = (rest[a] - column) * linked[a] + row[a] * last;
          }
          if (crosses(i, block, j)) clear_diagonal(linked, i, j);
          for (int a = 0; a < block; ++a) store(next + (i + a) * span + j, linked[a]);
        }
        for (int h = 0; h < heads; ++h) {
          const Vec weight = load(weights + h * span + j);
          Vec total = load(back + h * span + j);
          for (int a = 0; a < block; ++a) {
            sums[a][h] += linked[a] * weight;
            total += own[a][h] * linked[a];
          }
          store(back + h * span + j, total);
        }
      }
      for (int a = 0; a < block; ++a) {
        for (int h = 0; h < heads; ++h) on[h * span + i + a] = sum<scalar>(sums[a][h]);
      }
    }
    for (int h = 0; h < heads; ++h) {
      std::fill(on + h * span + slots, on + (h + 1) * span, scalar(0));
    }
  }

  // Backward of `forward`, in one pass over the links and their gradient. It adds to the gradients
  // of the weights; with `last`, the group of heads that comes last, to those of the write and of
  // the precedence too, and the gradient of the links becomes that of L_{t-1}.
  template <int heads, bool last>
  void backward(
      const scalar* links, const Replay& replay, const scalar* written, const scalar* precedence,
      const scalar* weights, const scalar* on_gradient, const scalar* back_gradient,
      scalar* gradient, scalar* weights_gradient, scalar* written_gradient,
      scalar* precedence_gradient) const {
    constexpr int block = heads <= 2 ? 4 : 2;
    for (int64_t i = 0; i < rows; i += block) {
      scalar row[block], rest[block], own[block][heads], on[block][heads];
      scalar past[stride][block];
      Vec of_row[block], sums[block][heads];
      for (int64_t k = 0; k < replay.count; ++k) {
        for (int a = 0; a < block; ++a) past[k][a] = replay.written[k][i + a];
      }
      for (int a = 0; a < block; ++a) {
        row[a] = written[i + a];
        rest[a] = 1 - row[a];
        of_row[a] = Vec{};
        for (int h = 0; h < heads; ++h) {
          sums[a][h] = Vec{};
          own[a][h] = weights[h * span + i + a];
          on[a][h] = on_gradient[h * span + i + a];
        }
      }
      for (int64_t j = 0; j < span; j += width) {
        const bool diagonal = crosses(i, block, j);
        const Vec column = load(written + j), p = load(precedence + j);
        Vec old[block], linked[block], slope[block];
        for (int a = 0; a < block; ++a) old[a] = load(links + (i + a) * span + j);
        for (int64_t k = 0; k < replay.count; ++k) {
          const Vec then = load(replay.written[k] + j), order = load(replay.precedence[k] + j);
          for (int a = 0; a < block; ++a) {
            old[a] = ((1 - past[k][a]) - then) * old[a] + past[k][a] * order;
          }
        }
        if (diagonal) clear_diagonal(old, i, j);
        for (int a = 0; a < block; ++a) {
          linked[a] = (rest[a] - column) * old[a] + row[a] * p;
          slope[a] = load(gradient + (i + a) * span + j);
        }
        if (diagonal) clear_diagonal(linked, i, j);
        for (int h = 0; h < heads; ++h) {
          const Vec weight = load(weights + h * span + j);
          const Vec back = load(back_gradient + h * span + j);
          Vec total = load(weights_gradient + h * span + j);
          for (int a = 0; a < block; ++a) {
            sums[a][h] += linked[a] * back;
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
          for (int a = 0; a < block; ++a) {
            of_p += row[a] * slope[a];
            of_row[a] += slope[a] * (p - old[a]);
            of_column -= slope[a] * old[a];
            slope[a] *= rest[a] - column;
          }
          store(written_gradient + j, of_column);
          store(precedence_gradient + j, of_p);
        }
        for (int a = 0; a < block; ++a) store(gradient + (i + a) * span + j, slope[a]);
      }
      for (int a = 0; a < block; ++a) {
        if (last) written_gradient[i + a] += sum<scalar>(of_row[a]);
        for (int h = 0; h < heads; ++h) {
          weights_gradient[h * span + i + a] += sum<scalar>(sums[a][h]);
        }
      }
    }
  }
};

// The order of the slots by usage, and weights on those that are free.
template <typename scalar>
struct Allocation {
  const int64_t slots;
  const scalar epsilon;

  using Bits = std::conditional_t<sizeof(scalar) == 4, uint32_t, uint64_t>;
  using Slot = std::pair<Bits, int32_t>;
  using Place = std::conditional_t<sizeof(scalar) == 4, int32_t, int64_t>;

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
    for (int64_t k = 0; k < slots; ++k) {
      sorted[k] = {sortable(usage[from[k]]), static_cast<int32_t>(from[k])};
    }
    int64_t moves = 0;
    for (int64_t k = 1; k < slots; ++k) {
      const Slot slot = sorted[k];
      int64_t place = k;
      for (; place > 0 && slot < sorted[place - 1]; --place) sorted[place] = sorted[place - 1];
      sorted[place] = slot;
      moves += k - place;
      if (moves > 8 * slots) {
        std::sort(sorted, sorted + slots);
        break;
      }
    }
    for (int64_t k = 0; k < slots; ++k) order[k] = sorted[k].second;
  }

  // a(phi_k) = (1 - u(phi_k)) prod_{i < k} u(phi_i); the products go to `before`.
  void forward(const scalar* usage, const Place* order, scalar* allocation, scalar* before) const {
    scalar product = 1;
    for (int64_t k = 0; k < slots; ++k) {
      const scalar free = (1 - epsilon) * (1 - usage[order[k]]);
      before[k] = product;
      allocation[order[k]] = free * product;
      product *= 1 - free;
    }
  }

  // Add to the gradient of the usage. A slot's usage is a factor of all later products.
  void backward(
      const scalar* usage, const Place* order, const scalar* allocation, const scalar* before,
      const scalar* towards, scalar* usage_gradient) const {
    scalar later = 0;
    for (int64_t k = slots - 1; k >= 0; --k) {
      const int64_t slot = order[k];
      const scalar used = 1 - (1 - epsilon) * (1 - usage[slot]);
      usage_gradient[slot] -= (1 - epsilon) * (towards[slot] * before[k] - later / used);
      later += towards[slot] * allocation[slot];
    }
  }
};

template <typename scalar>
struct DNCStep {
  using Vec = Vector<scalar>;
  using Place = typename Allocation<scalar>::Place;
  using Slot = typename Allocation<scalar>::Slot;
  using Replay = typename Links<scalar>::Replay;

  const int64_t slots, width, reads, span;
  const scalar epsilon;  // within the roots of the cosine
  const Allocation<scalar> allocation;
  const Links<scalar> links;
  // Where the parts of the interface begin: keys at 0, then strengths, gates and erase, modes, add.
  const int64_t strengths, unit, modes, add, interface_size;

  DNCStep(int64_t slots, int64_t width, int64_t reads, double epsilon, double usage_epsilon)
      : slots(slots), width(width), reads(reads), span(padded<scalar>(slots)), epsilon(epsilon),
        allocation{slots, scalar(usage_epsilon)}, links(slots), strengths((reads + 1) * width),
        unit(strengths + reads + 1), modes(unit + reads + 2 + width), add(modes + 3 * reads),
        interface_size(add + width) {}

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

  // All but the links.
  template <typename number>
  struct State {
    number *memory, *inverse, *usage, *precedence, *written, *weights, *order;
  };

  template <typename number>
  State<number> state(number* at) const {
    Cutter<number> cut{at, span};
    // Braces, so that the order is that of the fields.
    return {cut(width), cut(1), cut(1), cut(1), cut(1), cut(reads), cut(1)};
  }

  int64_t state_size() const { return span * (width + reads + 5); }

  template <typename number>
  struct Kept {
    number *scores, *content, *free, *before, *back, *on, *interface;
  };

  template <typename number>
  Kept<number> kept(number* at) const {
    Cutter<number> cut{at, span};
    return {cut(reads + 1), cut(reads + 1), cut(1), cut(1), cut(reads), cut(reads), cut(0)};
  }

  int64_t kept_size() const { return span * (4 * reads + 4) + padded<scalar>(interface_size); }

  // Gradients of all but the links.
  struct Gradient {
    scalar *memory, *usage, *precedence, *written, *weights;
  };

  Gradient gradient(scalar* at) const {
    Cutter<scalar> cut{at, span};
    return {cut(width), cut(1), cut(1), cut(1), cut(reads)};
  }

  int64_t gradient_size() const { return span * (width + reads + 3); }

  int64_t scratch_size() const {
    return 2 * padded<scalar>((reads + 1) * width) + span * (3 * reads + 5) +
           (reads + 1) * lanes<scalar>;
  }

  // -- by content ---------------------------------------------------------------------------------

  // out_h += sum_w keys_h(w) M(w), for all slots and a group of keys.
  template <int heads>
  void products(const scalar* keys, const scalar* memory, scalar* out) const {
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      Vec total[heads];
      for (int h = 0; h < heads; ++h) total[h] = load(out + h * span + j);
      for (int64_t w = 0; w < width; ++w) {
        const Vec value = load(memory + w * span + j);
        for (int h = 0; h < heads; ++h) total[h] += keys[h * width + w] * value;
      }
      for (int h = 0; h < heads; ++h) store(out + h * span + j, total[h]);
    }
  }

  void products(int64_t heads, const scalar* keys, const scalar* memory, scalar* out) const {
    by_heads(heads, [&](auto group, int64_t head) {
      products<group.value>(keys + head * width, memory, out + head * span);
    });
  }

  // r_h(w) = sum_i w_h(i) M(i, w).
  template <int heads>
  void read(const scalar* weights, const scalar* memory, scalar* vectors) const {
    for (int64_t w = 0; w < width; ++w) {
      Vec total[heads] = {};
      for (int64_t j = 0; j < span; j += lanes<scalar>) {
        const Vec value = load(memory + w * span + j);
        for (int h = 0; h < heads; ++h) total[h] += load(weights + h * span + j) * value;
      }
      for (int h = 0; h < heads; ++h) vectors[h * width + w] = sum<scalar>(total[h]);
    }
  }

  static Vec root(Vec squares) {
    for (int64_t i = 0; i < lanes<scalar>; ++i) squares[i] = std::sqrt(squares[i]);
    return squares;
  }

  // 1 / |M(i)|; 0 for padding, which would have a length of epsilon.
  void inverse_lengths(const scalar* memory, scalar* inverse) const {
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      Vec squares = all(epsilon);
      for (int64_t w = 0; w < width; ++w) {
        const Vec value = load(memory + w * span + j);
        squares += value * value;
      }
      store(inverse + j, 1 / root(squares));
    }
    std::fill(inverse + slots, inverse + span, scalar(0));
  }

  // Keys scaled to the length of their strengths: a product with one is beta times the cosine, but
  // for the length of the slot.
  void point(const scalar* interface, scalar* pointed) const {
    for (int64_t h = 0; h <= reads; ++h) {
      const scalar* key = interface + h * width;
      const scalar scale = (1 + interface[strengths + h]) / std::sqrt(dot(width, key, key) + epsilon);
      for (int64_t w = 0; w < width; ++w) pointed[h * width + w] = key[w] * scale;
    }
  }

  void point_backward(
      const scalar* interface, const scalar* pointed_gradient, scalar* interface_gradient) const {
    for (int64_t h = 0; h <= reads; ++h) {
      const scalar *key = interface + h * width, *towards = pointed_gradient + h * width;
      const scalar softplus = interface[strengths + h];
      const scalar inverse = 1 / std::sqrt(dot(width, key, key) + epsilon);
      // A unit vector moves only across its direction: the part along it is the strength's.
      const scalar along = dot(width, towards, key) * inverse;
      const scalar scale = (1 + softplus) * inverse;
      for (int64_t w = 0; w < width; ++w) {
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
    products(heads, pointed, memory, scores);
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t j = 0; j < span; j += lanes<scalar>) {
        const Vec score = load(scores + h * span + j) * load(inverse + j);
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
    for (int h = 0; h < heads; ++h) {
      softmax_gradient(slots, towards + h * span, content + h * span);
      for (int64_t j = 0; j < span; j += lanes<scalar>) {
        const Vec scale = load(inverse + j), slope = load(towards + h * span + j) * scale;
        store(towards + h * span + j, slope);
        // The length of a slot is part of its score; the gradient points along the slot.
        store(radial + j, load(radial + j) + slope * load(scores + h * span + j) * scale);
      }
    }
    for (int64_t w = 0; w < width; ++w) {
      Vec total[heads] = {};
      for (int64_t j = 0; j < span; j += lanes<scalar>) {
        const Vec value = load(memory + w * span + j);
        Vec gradient = load(memory_gradient + w * span + j) - load(radial + j) * value;
        for (int h = 0; h < heads; ++h) {
          const Vec slope = load(towards + h * span + j);
          total[h] += slope * value;
          gradient += slope * pointed[h * width + w];
          if (reading) gradient += load(weights + h * span + j) * vectors[h * width + w];
        }
        store(memory_gradient + w * span + j, gradient);
      }
      for (int h = 0; h < heads; ++h) pointed_gradient[h * width + w] = sum<scalar>(total[h]);
    }
  }

  // -- usage --------------------------------------------------------------------------------------

  // u_t = (u + (1 - u) w) prod_h (1 - f_h w_h).
  void use(const State<const scalar>& past, const scalar* free_gates, scalar* usage) const {
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      Vec kept = all(scalar(1));
      for (int64_t h = 0; h < reads; ++h) {
        kept *= 1 - free_gates[h] * load(past.weights + h * span + j);
      }
      const Vec before = load(past.usage + j);
      store(usage + j, (before + (1 - before) * load(past.written + j)) * kept);
    }
  }

  // Backward of `use`. It sets the gradients of u_{t-1}, of w_{t-1}^w and of the free gates, and
  // adds to those of the read weights.
  void use_backward(
      const State<const scalar>& past, const scalar* free_gates, const Gradient& gradient,
      scalar* free_gradient, scalar* scratch) const {
    scalar *after = scratch, *sums = scratch + span;
    std::fill(sums, sums + reads * lanes<scalar>, scalar(0));
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      const Vec usage = load(past.usage + j), written = load(past.written + j);
      const Vec towards = load(gradient.usage + j);
      const Vec of_factors = towards * (usage + (1 - usage) * written);
      Vec kept = all(scalar(1));
      for (int64_t h = 0; h < reads; ++h) {
        // The product over all other heads. No division: a factor may be 0.
        Vec others = all(scalar(1));
        for (int64_t k = 0; k < reads; ++k) {
          if (k != h) others *= 1 - free_gates[k] * load(past.weights + k * span + j);
        }
        const Vec weight = load(past.weights + h * span + j), of_factor = of_factors * others;
        store(sums + h * lanes<scalar>, load(sums + h * lanes<scalar>) + of_factor * weight);
        scalar* weights_gradient = gradient.weights + h * span + j;
        store(weights_gradient, load(weights_gradient) - of_factor * free_gates[h]);
        kept *= 1 - free_gates[h] * weight;
      }
      const Vec of_filled = towards * kept;
      store(gradient.usage + j, of_filled * (1 - written));
      store(gradient.written + j, of_filled * (1 - usage));
    }
    (void)after;
    for (int64_t h = 0; h < reads; ++h) {
      const scalar total = sum<scalar>(load(sums + h * lanes<scalar>));
      free_gradient[h] = -total * free_gates[h] * (1 - free_gates[h]);
    }
  }

  // -- a step -------------------------------------------------------------------------------------

  // The parts of the interface in their ranges. Strengths keep their softplus, without the 1.
  void activate(const scalar* raw, scalar* interface) const {
    scalar slope;
    std::copy(raw, raw + interface_size, interface);
    for (int64_t i = strengths; i < unit; ++i) interface[i] = softplus(raw[i], &slope);
    map(modes - unit, raw + unit, interface + unit, [](Vec x) { return sigmoid<scalar>(x); });
    for (int64_t i = modes; i < add; i += 3) {
      scalar* mode = interface + i;
      const scalar most = std::max(mode[0], std::max(mode[1], mode[2]));
      for (int k = 0; k < 3; ++k) mode[k] = std::exp(mode[k] - most);
      const scalar total = mode[0] + mode[1] + mode[2];
      for (int k = 0; k < 3; ++k) mode[k] /= total;
    }
  }

  // `next_links` may be `past_links`.
  void forward(
      const scalar* raw, const State<const scalar>& past, const scalar* past_links,
      const State<scalar>& next, scalar* next_links, const Kept<scalar>& kept, scalar* vectors,
      scalar* scratch) const {
    activate(raw, kept.interface);
    const scalar *gates = kept.interface + unit, *erase = gates + reads + 2;
    const scalar *mode = kept.interface + modes, *added = kept.interface + add;
    scalar* pointed = scratch;
    point(kept.interface, pointed);
    Slot* sorting = reinterpret_cast<Slot*>(scratch + 2 * padded<scalar>((reads + 1) * width));
    Place* order = reinterpret_cast<Place*>(next.order);

    use(past, gates, next.usage);
    allocation.sort(next.usage, reinterpret_cast<const Place*>(past.order), order, sorting);
    allocation.forward(next.usage, order, kept.free, kept.before);
    std::fill(kept.free + slots, kept.free + span, scalar(0));

    // Write: w = g_w (g_a a + (1 - g_a) c), M = M + w (v - e M).
    scalar* content = kept.content + reads * span;
    contents(
        1, pointed + reads * width, past.memory, past.inverse, kept.scores + reads * span, content);
    Vec mass = {};
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      const Vec by_content = load(content + j);
      const Vec chosen = by_content + gates[reads] * (load(kept.free + j) - by_content);
      const Vec written = gates[reads + 1] * chosen;
      mass += written;
      store(next.written + j, written);
      Vec squares = all(epsilon);
      for (int64_t w = 0; w < width; ++w) {
        const Vec value = load(past.memory + w * span + j);
        const Vec changed = value + written * (added[w] - erase[w] * value);
        store(next.memory + w * span + j, changed);
        squares += changed * changed;
      }
      store(next.inverse + j, 1 / root(squares));
    }
    std::fill(next.inverse + slots, next.inverse + span, scalar(0));

    // Links; then the precedence, which the links take from the step before.
    by_heads(reads, [&](auto group, int64_t head) {
      const scalar* weights = past.weights + head * span;
      scalar *on = kept.on + head * span, *back = kept.back + head * span;
      if (head == 0) {
        links.template forward<group.value, false>(
            past_links, next_links, next.written, past.precedence, weights, on, back);
      } else {
        links.template forward<group.value, true>(
            next_links, next_links, next.written, past.precedence, weights, on, back);
      }
    });
    const scalar rest = 1 - sum<scalar>(mass);
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      store(next.precedence + j, rest * load(past.precedence + j) + load(next.written + j));
    }

    // Read: w = pi_1 b + pi_2 c + pi_3 f.
    contents(reads, pointed, next.memory, next.inverse, kept.scores, kept.content);
    for (int64_t h = 0; h < reads; ++h) {
      for (int64_t j = h * span; j < (h + 1) * span; j += lanes<scalar>) {
        store(
            next.weights + j, mode[3 * h] * load(kept.back + j) +
                                  mode[3 * h + 1] * load(kept.content + j) +
                                  mode[3 * h + 2] * load(kept.on + j));
      }
    }
    by_heads(reads, [&](auto group, int64_t head) {
      read<group.value>(next.weights + head * span, next.memory, vectors + head * width);
    });
  }

  // `gradient` and `links_gradient` are those of the next state, then those of the state before.
  // The links before the step follow from `kept_links` by the writes of `replay`.
  void backward(
      const State<const scalar>& past, const State<const scalar>& next, const scalar* kept_links,
      const Replay& replay, const Kept<const scalar>& kept, const scalar* vectors_gradient,
      const Gradient& gradient, scalar* links_gradient, scalar* interface_gradient,
      scalar* scratch) const {
    const scalar *gates = kept.interface + unit, *erase = gates + reads + 2;
    const scalar *mode = kept.interface + modes, *added = kept.interface + add;
    scalar *of_gates = interface_gradient + unit, *of_erase = of_gates + reads + 2;
    Cutter<scalar> cut_keys{scratch, padded<scalar>((reads + 1) * width)};
    scalar *pointed = cut_keys(1), *pointed_gradient = cut_keys(1);
    Cutter<scalar> cut{cut_keys.at, span};
    scalar *of_back = cut(reads), *of_content = cut(reads), *of_on = cut(reads);
    scalar *radial = cut(1), *of_free = cut(1), *of_sought = cut(1), *rest_of_scratch = cut(0);
    point(kept.interface, pointed);

    // Read. The gradients of b, c and f, and of the modes.
    products(reads, vectors_gradient, next.memory, gradient.weights);
    for (int64_t h = 0; h < reads; ++h) {
      Vec sums[3] = {};
      for (int64_t j = h * span; j < (h + 1) * span; j += lanes<scalar>) {
        const Vec slope = load(gradient.weights + j);
        sums[0] += slope * load(kept.back + j);
        sums[1] += slope * load(kept.content + j);
        sums[2] += slope * load(kept.on + j);
        store(of_back + j, slope * mode[3 * h]);
        store(of_content + j, slope * mode[3 * h + 1]);
        store(of_on + j, slope * mode[3 * h + 2]);
        store(gradient.weights + j, Vec{});  // from here on that of the weights before
      }
      scalar slopes[3], mean = 0;
      for (int k = 0; k < 3; ++k) mean += (slopes[k] = sum<scalar>(sums[k])) * mode[3 * h + k];
      for (int k = 0; k < 3; ++k) {
        interface_gradient[modes + 3 * h + k] = (slopes[k] - mean) * mode[3 * h + k];
      }
    }
    by_heads(reads, [&](auto group, int64_t head) {
      const int64_t at = head * span, key = head * width;
      contents_backward<group.value, true>(
          of_content + at, kept.content + at, kept.scores + at, next.inverse, pointed + key,
          next.memory, next.weights + at, vectors_gradient + key, gradient.memory,
          pointed_gradient + key, radial);
    });

    // Precedence: p = (1 - sum w) p + w. Then the links.
    Vec mass = {}, pushed = {};
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      mass += load(next.written + j);
      pushed += load(gradient.precedence + j) * load(past.precedence + j);
    }
    const scalar rest = 1 - sum<scalar>(mass), of_mass = sum<scalar>(pushed);
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      const Vec slope = load(gradient.precedence + j);
      store(gradient.written + j, load(gradient.written + j) + slope - of_mass);
      store(gradient.precedence + j, slope * rest);
    }
    by_heads(reads, [&](auto group, int64_t head) {
      const int64_t at = head * span;
      auto run = [&](auto last) {
        links.template backward<group.value, last.value>(
            kept_links, replay, next.written, past.precedence, past.weights + at, of_on + at,
            of_back + at, links_gradient, gradient.weights + at, gradient.written,
            gradient.precedence);
      };
      if (head + group.value == reads) {
        run(std::true_type());
      } else {
        run(std::false_type());
      }
    });

    // Write: M = M + w (v - e M).
    for (int64_t w = 0; w < width; ++w) {
      Vec of_add = {}, of_erased = {};
      for (int64_t j = 0; j < span; j += lanes<scalar>) {
        const Vec value = load(past.memory + w * span + j), slope = load(gradient.memory + w * span + j);
        const Vec moved = slope * load(next.written + j);
        of_add += moved;
        of_erased += moved * value;
        store(
            gradient.written + j,
            load(gradient.written + j) + slope * (added[w] - erase[w] * value));
        store(gradient.memory + w * span + j, slope - erase[w] * moved);
      }
      interface_gradient[add + w] = sum<scalar>(of_add);
      of_erase[w] = -sum<scalar>(of_erased) * erase[w] * (1 - erase[w]);
    }

    // w = g_w (g_a a + (1 - g_a) c).
    const scalar by_allocation = gates[reads], write = gates[reads + 1];
    const scalar* content = kept.content + reads * span;
    Vec of_write = {}, of_allocation = {};
    for (int64_t j = 0; j < span; j += lanes<scalar>) {
      const Vec by_content = load(content + j), beyond = load(kept.free + j) - by_content;
      const Vec slope = load(gradient.written + j), scaled = slope * write;
      of_write += slope * (by_content + by_allocation * beyond);
      of_allocation += scaled * beyond;
      store(of_free + j, scaled * by_allocation);
      store(of_sought + j, scaled * (1 - by_allocation));
    }
    of_gates[reads] = sum<scalar>(of_allocation) * by_allocation * (1 - by_allocation);
    of_gates[reads + 1] = sum<scalar>(of_write) * write * (1 - write);
    contents_backward<1, false>(
        of_sought, content, kept.scores + reads * span, past.inverse, pointed + reads * width,
        past.memory, nullptr, nullptr, gradient.memory, pointed_gradient + reads * width, radial);
    point_backward(kept.interface, pointed_gradient, interface_gradient);

    allocation.backward(
        next.usage, reinterpret_cast<const Place*>(next.order), kept.free, kept.before, of_free,
        gradient.usage);
    use_backward(past, gates, gradient, of_gates, rest_of_scratch);
  }
};

}  // namespace memnets
