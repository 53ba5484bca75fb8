// Parts of a Transformer's layers without gradients: those of a decoder for one step of a search, and
// those of an encoder. And rows of a search's slots.
//
// A part is a network f within a skip connection, as memnets.cells.Connection defines it: the
// result is x + f(norm(x)), or norm(x + f(x)). Only the products of matrices go to a library; all
// between them is done in as few passes as it takes.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "buffers.h"
#include "products.h"

namespace memnets {
namespace {

using at::Tensor;

// Normalisation of each row to mean 0 and variance 1, then a scale and an offset.
struct Norm {
  Tensor weight, bias;
  double epsilon;
};

template <typename scalar>
void normalise(int64_t rows, int64_t width, const scalar* from, scalar* to, const Norm& norm) {
  constexpr int64_t L = lanes<scalar>;
  const scalar *weight = norm.weight.const_data_ptr<scalar>();
  const scalar *bias = norm.bias.const_data_ptr<scalar>();
  for (int64_t row = 0; row < rows; row++, from += width, to += width) {
    Vector<scalar> total = {};
    int64_t i = 0;
    for (; i + L <= width; i += L) total += load(from + i);
    scalar mean = sum<scalar>(total);
    for (; i < width; i++) mean += from[i];
    mean /= width;
    Vector<scalar> squares = {};
    for (i = 0; i + L <= width; i += L) {
      const Vector<scalar> rest = load(from + i) - mean;
      squares += rest * rest;
    }
    scalar variance = sum<scalar>(squares);
    for (; i < width; i++) variance += (from[i] - mean) * (from[i] - mean);
    const scalar scale = 1 / std::sqrt(variance / width + scalar(norm.epsilon));
    for (i = 0; i + L <= width; i += L) {
      store(to + i, (load(from + i) - mean) * scale * load(weight + i) + load(bias + i));
    }
    for (; i < width; i++) to[i] = (from[i] - mean) * scale * weight[i] + bias[i];
  }
}

// A linear layer: weight [columns, inner], bias [columns].
template <typename scalar>
struct Linear {
  const scalar *weight, *bias;
  int64_t columns, inner;

  // Of the first `columns` rows of a weight.
  Linear(const Tensor& weight, const Tensor& bias, int64_t columns)
      : weight(weight.const_data_ptr<scalar>()), bias(bias.const_data_ptr<scalar>()),
        columns(columns), inner(weight.size(1)) {}
  Linear(const Tensor& weight, const Tensor& bias) : Linear(weight, bias, weight.size(0)) {}

  // to [rows, columns] = from [rows, inner] @ weight.T + bias.
  void run(int64_t rows, const scalar* from, scalar* to) const {
    for (int64_t row = 0; row < rows; row++) std::copy_n(bias, columns, to + row * columns);
    add_product<true, scalar>({to, rows, columns}, {from, rows, inner}, {weight, columns, inner});
  }

  // to = more + from @ weight.T + bias.
  void run(int64_t rows, const scalar* from, scalar* to, const scalar* more) const {
    constexpr int64_t L = lanes<scalar>;
    for (int64_t row = 0; row < rows; row++) {
      const scalar* add = more + row * columns;
      scalar* here = to + row * columns;
      int64_t i = 0;
      for (; i + L <= columns; i += L) store(here + i, load(add + i) + load(bias + i));
      for (; i < columns; i++) here[i] = add[i] + bias[i];
    }
    add_product<true, scalar>({to, rows, columns}, {from, rows, inner}, {weight, columns, inner});
  }
};

// A part: a network of two linear layers, and what stands around it.
template <typename scalar>
struct Part {
  Linear<scalar> first, last;
  const Norm& norm;
  bool pre;

  int64_t width() const { return last.columns; }

  // Whole rows, some of them at a time: what a step makes stays near the processor until the next
  // step needs it. `within(low, count, made, read)` goes from what the first layer made of rows
  // from `low` on to the input of the last.
  template <typename Within>
  Tensor run(const Tensor& inputs, int64_t most, Within within) const {
    const int64_t rows = inputs.size(0), W = width();
    Tensor result = at::empty_like(inputs);
    const scalar* from = inputs.const_data_ptr<scalar>();
    scalar* to = result.mutable_data_ptr<scalar>();
    at::parallel_for(0, (rows + most - 1) / most, 1, [&](int64_t start, int64_t end) {
      const int64_t count = std::min(most, rows);
      std::unique_ptr<scalar[]> normed(new scalar[count * W]);
      std::unique_ptr<scalar[]> made(new scalar[count * first.columns]);
      std::unique_ptr<scalar[]> read(new scalar[count * last.inner]);
      for (int64_t block = start; block < end; block++) {
        const int64_t low = block * most, here = std::min(most, rows - low);
        const scalar* given = from + low * W;
        if (pre) {
          normalise<scalar>(here, W, given, normed.get(), norm);
          given = normed.get();
        }
        first.run(here, given, made.get());
        const scalar* found = within(low, here, made.get(), read.get());
        last.run(here, found, to + low * W, from + low * W);
        if (!pre) normalise<scalar>(here, W, to + low * W, to + low * W, norm);
      }
    });
    return result;
  }
};

// Rows to treat at once, in groups of `group` rows: as many as the processor keeps near it, fewer if
// there would be none for some threads.
inline int64_t rows_at_once(int64_t rows, int64_t group = 1) {
  constexpr int64_t least = 16, most = 256;
  const int64_t share = (rows + at::get_num_threads() - 1) / at::get_num_threads();
  return (std::clamp(share, least, most) + group - 1) / group * group;
}

// Where the slots of a row and head begin.
struct Places {
  int64_t row, head, slot;

  explicit Places(const Tensor& slots)
      : row(slots.stride(0)), head(slots.stride(1)), slot(slots.stride(2)) {}

  int64_t of(int64_t b, int64_t h) const { return b * row + h * head; }
};

// Weights of scores, in place; closed slots have weight 0. The row is padded.
template <typename scalar>
void weigh(int64_t slots, scalar* scores, scalar scale, const bool* seen) {
  for (int64_t n = 0; n < slots; n++) {
    scores[n] = !seen || seen[n] ? scores[n] * scale : -std::numeric_limits<scalar>::infinity();
  }
  softmax<scalar>(slots, scores);
}

template <typename scalar>
Tensor look_of(const Part<scalar>& part, const Tensor& inputs, const Tensor& keys,
               const Tensor& values, const std::optional<Tensor>& mask, bool own) {
  const int64_t H = keys.size(1), N = keys.size(2), D = keys.size(3), W = H * D;
  const int64_t columns = part.first.columns;
  scalar* key = const_cast<scalar*>(keys.const_data_ptr<scalar>());
  scalar* value = const_cast<scalar*>(values.const_data_ptr<scalar>());
  const bool* open = mask ? mask->const_data_ptr<bool>() : nullptr;
  const Places of_keys(keys), of_values(values);
  const scalar scale = 1 / std::sqrt(scalar(D));
  return part.run(inputs, rows_at_once(inputs.size(0)), [&](int64_t low, int64_t count, scalar* asked, scalar* read) {
    std::vector<scalar> weights(padded<scalar>(N));
    for (int64_t b = low; b < low + count; b++, asked += columns) {
      const bool* seen = open ? open + b * N : nullptr;
      const bool empty = N == 0 || (seen && !std::any_of(seen, seen + N, [](bool s) { return s; }));
      for (int64_t h = 0; h < H; h++) {
        scalar* key_slots = key + of_keys.of(b, h);
        scalar* value_slots = value + of_values.of(b, h);
        scalar* result = read + (b - low) * W + h * D;
        if (own) {
          std::copy_n(asked + W + h * D, D, key_slots + (N - 1) * of_keys.slot);
          std::copy_n(asked + 2 * W + h * D, D, value_slots + (N - 1) * of_values.slot);
        }
        std::fill_n(result, D, scalar(0));
        if (empty) continue;
        std::fill_n(weights.data(), N, scalar(0));
        detail::add_dots<scalar>(weights.data(), asked + h * D, key_slots, N, D, of_keys.slot);
        weigh(N, weights.data(), scale, seen);
        detail::add_rows<scalar>(result, weights.data(), value_slots, N, D, of_values.slot);
      }
    }
    return read;
  });
}

template <typename scalar>
Tensor look_around_of(const Part<scalar>& part, const Tensor& inputs, int64_t S, int64_t H,
                      const std::optional<Tensor>& mask) {
  const int64_t W = part.width(), D = W / H, columns = part.first.columns, span = padded<scalar>(S);
  const bool* open = mask ? mask->const_data_ptr<bool>() : nullptr;
  const scalar scale = 1 / std::sqrt(scalar(D));
  const int64_t most = rows_at_once(inputs.size(0), S);
  return part.run(inputs, most, [&](int64_t low, int64_t count, scalar* made, scalar* read) {
    std::vector<scalar> weights(S * span);
    std::fill_n(read, count * W, scalar(0));
    for (int64_t first = 0; first < count; first += S, made += S * columns, read += S * W) {
      const bool* seen = open ? open + low + first : nullptr;
      if (seen && !std::any_of(seen, seen + S, [](bool s) { return s; })) continue;
      for (int64_t h = 0; h < H; h++) {
        const scalar* query = made + h * D;
        std::fill(weights.begin(), weights.end(), scalar(0));
        add_product<true, scalar>({weights.data(), S, S, span}, {query, S, D, columns},
                                  {query + W, S, D, columns});
        for (int64_t s = 0; s < S; s++) weigh(S, weights.data() + s * span, scale, seen);
        add_product<false, scalar>({read + h * D, S, D, W}, {weights.data(), S, S, span},
                                   {query + 2 * W, S, D, columns});
      }
    }
    return read - count * W;
  });
}

template <typename scalar>
Tensor think_of(const Part<scalar>& part, const Tensor& inputs) {
  return part.run(inputs, rows_at_once(inputs.size(0)), [&](int64_t, int64_t count, scalar* hidden, scalar*) {
    // NaN stays: a comparison with it is false.
    map(count * part.first.columns, hidden, hidden,
        [](Vector<scalar> x) { return x < 0 ? Vector<scalar>{} : x; });
    return hidden;
  });
}

template <typename Function>
Tensor by_type(const Tensor& inputs, Function run) {
  return inputs.scalar_type() == at::kFloat ? run(float()) : run(double());
}

// A tensor that an operator reads where it lies: as the inputs, of this shape, its numbers in order.
void check(const Tensor& given, const Tensor& inputs, at::IntArrayRef shape, const char* name) {
  TORCH_CHECK(given.sizes() == shape, name, " must be ", shape, "; got ", given.sizes());
  TORCH_CHECK(given.scalar_type() == inputs.scalar_type() && given.device().is_cpu() &&
                  given.is_contiguous(),
              name, " must be contiguous, of the type of the inputs, on the CPU");
}

// The same of all that a part reads. Its first layer has `columns` outputs, its last `inner` inputs.
void check_part(const Tensor& inputs, int64_t columns, int64_t inner, const Tensor& weight,
                const Tensor& bias, const Tensor& to_output, const Tensor& output_bias,
                const Norm& norm) {
  TORCH_CHECK(inputs.dim() == 2 && inputs.is_contiguous() &&
                  (inputs.scalar_type() == at::kFloat || inputs.scalar_type() == at::kDouble),
              "inputs must be contiguous rows of float32 or float64; got ", inputs.sizes());
  const int64_t W = inputs.size(1);
  check(weight, inputs, {columns, W}, "the weight of the first layer");
  check(bias, inputs, {columns}, "the bias of the first layer");
  check(to_output, inputs, {W, inner}, "the weight of the last layer");
  check(output_bias, inputs, {W}, "the bias of the last layer");
  check(norm.weight, inputs, {W}, "the weight of the normalisation");
  check(norm.bias, inputs, {W}, "the bias of the normalisation");
}

void check_open(const std::optional<Tensor>& mask, int64_t numbers) {
  TORCH_CHECK(!mask || (mask->scalar_type() == at::kBool && mask->is_contiguous() &&
                        mask->numel() == numbers),
              "the mask must be bool, of ", numbers, " numbers");
}

// Attention of a row to slots. `own`: the last slot is room for the key and value of the row.
Tensor look(const Tensor& inputs, const Tensor& keys, const Tensor& values,
            const std::optional<Tensor>& mask, const Tensor& weight, const Tensor& bias,
            const Tensor& to_output, const Tensor& output_bias, const Tensor& norm_weight,
            const Tensor& norm_bias, double epsilon, bool own, bool pre) {
  const Norm norm{norm_weight, norm_bias, epsilon};
  TORCH_CHECK(inputs.dim() == 2 && keys.dim() == 4 && keys.sizes() == values.sizes() &&
                  keys.size(0) == inputs.size(0) &&
                  keys.size(1) * keys.size(3) == inputs.size(1) && (keys.size(2) > 0 || !own),
              "keys and values must be [B, heads, N, width / heads]; got ", keys.sizes(), " and ",
              values.sizes());
  for (const Tensor& slots : {keys, values}) {
    TORCH_CHECK(slots.scalar_type() == inputs.scalar_type() && slots.device().is_cpu() &&
                    slots.stride(3) == 1,
                "keys and values must be of the type of the inputs, their numbers in order");
  }
  const int64_t W = inputs.size(1);
  check_part(inputs, 3 * W, W, weight, bias, to_output, output_bias, norm);
  check_open(mask, keys.size(0) * keys.size(2));
  return by_type(inputs, [&](auto zero) {
    typedef decltype(zero) scalar;
    const Linear<scalar> first(weight, bias, (own ? 3 : 1) * W);
    return look_of<scalar>({first, {to_output, output_bias}, norm, pre}, inputs, keys, values,
                           mask, own);
  });
}

// Attention of the steps of sequences to each other; inputs are [B * S, width].
Tensor look_around(const Tensor& inputs, int64_t steps, int64_t heads,
                   const std::optional<Tensor>& mask, const Tensor& weight, const Tensor& bias,
                   const Tensor& to_output, const Tensor& output_bias, const Tensor& norm_weight,
                   const Tensor& norm_bias, double epsilon, bool pre) {
  const Norm norm{norm_weight, norm_bias, epsilon};
  TORCH_CHECK(inputs.dim() == 2 && steps > 0 && heads > 0 && inputs.size(0) % steps == 0 &&
                  inputs.size(1) % heads == 0,
              "inputs must be rows of ", steps, " steps and ", heads, " heads; got ",
              inputs.sizes());
  const int64_t W = inputs.size(1);
  check_part(inputs, 3 * W, W, weight, bias, to_output, output_bias, norm);
  check_open(mask, inputs.size(0));
  return by_type(inputs, [&](auto zero) {
    typedef decltype(zero) scalar;
    return look_around_of<scalar>({{weight, bias}, {to_output, output_bias}, norm, pre}, inputs,
                                  steps, heads, mask);
  });
}

// Rows of slots [B, ..., N, W] in a buffer of `before` slots each, in a new buffer of `size` slots.
Tensor rows(const Tensor& slots, const Tensor& index, int64_t before, int64_t size) {
  TORCH_CHECK(slots.dim() >= 3 && index.dim() <= 1, "slots must be [B, ..., N, W], the index [B']");
  const int64_t dims = slots.dim(), N = slots.size(dims - 2), count = index.numel();
  const int64_t width = slots.size(dims - 1) * slots.itemsize();
  int64_t groups = 1;
  for (int64_t d = 1; d < dims - 2; d++) groups *= slots.size(d);
  const int64_t all = slots.size(0);
  TORCH_CHECK(slots.device().is_cpu() && slots.stride(dims - 1) == 1 && N <= before && N <= size,
              "rows must be those of a buffer on the CPU with room for ", N, " slots");
  int64_t stride = before * slots.size(dims - 1);
  TORCH_CHECK(N < 2 || slots.stride(dims - 2) == slots.size(dims - 1), "slots must lie side by side");
  for (int64_t d = dims - 3; d >= 0; stride *= slots.size(d--)) {
    TORCH_CHECK(slots.size(d) < 2 || slots.stride(d) == stride,
                "rows must be whole: of strides such as those of a buffer of ", before,
                " slots; got ", slots.strides());
  }
  std::vector<int64_t> shape = slots.sizes().vec();
  shape[0] = count;
  shape[dims - 2] = size;
  Tensor buffer = Buffers::empty(shape, slots.options());
  TORCH_CHECK(index.device().is_cpu() && !index.is_floating_point(), "the index must hold places");
  const Tensor places = index.to(at::kLong).contiguous();
  const int64_t* place = places.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < count; row++) {
    TORCH_CHECK_INDEX(0 <= place[row] && place[row] < all, "index ", place[row],
                      " is out of range: there are ", all, " rows");
  }
  const char* from = static_cast<const char*>(slots.const_data_ptr());
  char* to = static_cast<char*>(buffer.mutable_data_ptr());
  const int64_t least = 1 + 65536 / std::max<int64_t>(1, groups * N * width);
  at::parallel_for(0, count, least, [&](int64_t low, int64_t high) {
    for (int64_t group = low * groups; group < high * groups; group++) {
      const int64_t there = place[group / groups] * groups + group % groups;
      std::memcpy(to + group * size * width, from + there * before * width, N * width);
    }
  });
  return buffer.narrow(dims - 2, 0, N);
}

// The feed-forward network.
Tensor think(const Tensor& inputs, const Tensor& weight, const Tensor& bias,
             const Tensor& to_output, const Tensor& output_bias, const Tensor& norm_weight,
             const Tensor& norm_bias, double epsilon, bool pre) {
  const Norm norm{norm_weight, norm_bias, epsilon};
  TORCH_CHECK(weight.dim() == 2, "the weight of the first layer must be a matrix; got ",
              weight.sizes());
  check_part(inputs, weight.size(0), weight.size(0), weight, bias, to_output, output_bias, norm);
  return by_type(inputs, [&](auto zero) {
    typedef decltype(zero) scalar;
    return think_of<scalar>({{weight, bias}, {to_output, output_bias}, norm, pre}, inputs);
  });
}

}  // namespace
}  // namespace memnets

TORCH_LIBRARY_FRAGMENT(memnets, library) {
  library.def(
      "look(Tensor inputs, Tensor(a!) keys, Tensor(b!) values, Tensor? mask, Tensor weight, "
      "Tensor bias, Tensor to_output, Tensor output_bias, Tensor norm_weight, Tensor norm_bias, "
      "float epsilon, bool own, bool pre) -> Tensor");
  library.def(
      "look_around(Tensor inputs, int steps, int heads, Tensor? mask, Tensor weight, Tensor bias, "
      "Tensor to_output, Tensor output_bias, Tensor norm_weight, Tensor norm_bias, float epsilon, "
      "bool pre) -> Tensor");
  library.def("rows(Tensor slots, Tensor index, int before, int size) -> Tensor");
  library.def(
      "think(Tensor inputs, Tensor weight, Tensor bias, Tensor to_output, Tensor output_bias, "
      "Tensor norm_weight, Tensor norm_bias, float epsilon, bool pre) -> Tensor");
}

TORCH_LIBRARY_IMPL(memnets, CPU, library) {
  library.impl("look", &memnets::look);
  library.impl("look_around", &memnets::look_around);
  library.impl("rows", &memnets::rows);
  library.impl("think", &memnets::think);
}
