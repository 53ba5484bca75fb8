// Parts of a Transformer's decoder layer for one step of a search: no gradients.
//
// A part is a network f within a skip connection, as memnets.cells.Connection defines it: the
// result is x + f(norm(x)), or norm(x + f(x)). Only the products of matrices go to a library; all
// between them is done in as few passes as it takes.

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

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

// Inputs [rows, width] of the network of a part.
template <typename scalar>
Tensor before(const Tensor& inputs, const Norm& norm, bool pre) {
  if (!pre) return inputs;
  Tensor normed = at::empty_like(inputs);
  normalise<scalar>(inputs.size(0), inputs.size(1), inputs.const_data_ptr<scalar>(),
                    normed.mutable_data_ptr<scalar>(), norm);
  return normed;
}

// Rows of a matrix, or of rows that begin at a column of it.
template <typename scalar>
Rows<const scalar> rows_of(const Tensor& tensor) {
  return {tensor.const_data_ptr<scalar>(), tensor.size(0), tensor.size(1)};
}

template <typename scalar>
Rows<scalar> filled(const Tensor& tensor) {
  return {tensor.mutable_data_ptr<scalar>(), tensor.size(0), tensor.size(1)};
}

// inputs @ weight.T + bias, of the first `width` rows of the weight.
template <typename scalar>
Tensor linear(const Tensor& inputs, const Tensor& weight, const Tensor& bias, int64_t width) {
  const int64_t rows = inputs.size(0);
  Tensor result = at::empty({rows, width}, inputs.options());
  scalar* to = result.mutable_data_ptr<scalar>();
  const scalar* offset = bias.const_data_ptr<scalar>();
  for (int64_t row = 0; row < rows; row++) std::copy_n(offset, width, to + row * width);
  add_product<true, scalar>(filled<scalar>(result), rows_of<scalar>(inputs),
                            {weight.const_data_ptr<scalar>(), width, weight.size(1)});
  return result;
}

// x + (made @ weight.T + bias), normalised if the norm stands behind the sum.
template <typename scalar>
Tensor after(const Tensor& inputs, const Tensor& made, const Tensor& weight, const Tensor& bias,
             const Norm& norm, bool pre) {
  constexpr int64_t L = lanes<scalar>;
  const int64_t rows = inputs.size(0), width = inputs.size(1);
  Tensor result = at::empty_like(inputs);
  const scalar* from = inputs.const_data_ptr<scalar>();
  const scalar* offset = bias.const_data_ptr<scalar>();
  scalar* to = result.mutable_data_ptr<scalar>();
  for (int64_t row = 0; row < rows; row++, from += width, to += width) {
    int64_t i = 0;
    for (; i + L <= width; i += L) store(to + i, load(from + i) + load(offset + i));
    for (; i < width; i++) to[i] = from[i] + offset[i];
  }
  add_product<true, scalar>(filled<scalar>(result), rows_of<scalar>(made),
                            rows_of<scalar>(weight));
  if (!pre) {
    scalar* row = result.mutable_data_ptr<scalar>();
    normalise<scalar>(rows, width, row, row, norm);
  }
  return result;
}

// Where the slots of a row and head begin.
struct Places {
  int64_t row, head, slot;

  explicit Places(const Tensor& slots)
      : row(slots.stride(0)), head(slots.stride(1)), slot(slots.stride(2)) {}

  int64_t of(int64_t b, int64_t h) const { return b * row + h * head; }
};

template <typename scalar>
Tensor look_of(const Tensor& inputs, const Tensor& keys, const Tensor& values,
               const std::optional<Tensor>& mask, const Tensor& weight, const Tensor& bias,
               const Tensor& to_output, const Tensor& output_bias, const Norm& norm, bool own,
               bool pre) {
  const int64_t B = keys.size(0), H = keys.size(1), N = keys.size(2), D = keys.size(3);
  const int64_t width = H * D, projected_width = own ? 3 * width : width;
  const Tensor projected =
      linear<scalar>(before<scalar>(inputs, norm, pre), weight, bias, projected_width);
  const Tensor read = at::empty_like(inputs);
  const scalar* asked = projected.const_data_ptr<scalar>();
  scalar* key = const_cast<scalar*>(keys.const_data_ptr<scalar>());
  scalar* value = const_cast<scalar*>(values.const_data_ptr<scalar>());
  scalar* to = read.mutable_data_ptr<scalar>();
  const bool* open = mask ? mask->const_data_ptr<bool>() : nullptr;
  const Places of_keys(keys), of_values(values);
  const scalar scale = 1 / std::sqrt(scalar(D));
  at::parallel_for(0, B, 1 + 16384 / (width * (N + 1)), [&](int64_t low, int64_t high) {
    std::vector<scalar> weights(padded<scalar>(N));
    for (int64_t b = low; b < high; b++) {
      const bool* seen = open ? open + b * N : nullptr;
      const bool empty = N == 0 || (seen && std::none_of(seen, seen + N, [](bool s) { return s; }));
      for (int64_t h = 0; h < H; h++) {
        const scalar* query = asked + b * projected_width + h * D;
        scalar* key_slots = key + of_keys.of(b, h);
        scalar* value_slots = value + of_values.of(b, h);
        scalar* result = to + b * width + h * D;
        if (own) {
          std::copy_n(query + width, D, key_slots + (N - 1) * of_keys.slot);
          std::copy_n(query + 2 * width, D, value_slots + (N - 1) * of_values.slot);
        }
        std::fill_n(result, D, scalar(0));
        if (empty) continue;
        std::fill_n(weights.data(), N, scalar(0));
        detail::add_dots<scalar>(weights.data(), query, key_slots, N, D, of_keys.slot);
        for (int64_t n = 0; n < N; n++) {
          weights[n] = !seen || seen[n] ? weights[n] * scale
                                        : -std::numeric_limits<scalar>::infinity();
        }
        softmax<scalar>(N, weights.data());
        detail::add_rows<scalar>(result, weights.data(), value_slots, N, D, of_values.slot);
      }
    }
  });
  return after<scalar>(inputs, read, to_output, output_bias, norm, pre);
}

template <typename scalar>
Tensor think_of(const Tensor& inputs, const Tensor& weight, const Tensor& bias,
                const Tensor& to_output, const Tensor& output_bias, const Norm& norm, bool pre) {
  Tensor hidden = linear<scalar>(before<scalar>(inputs, norm, pre), weight, bias, weight.size(0));
  scalar* number = hidden.mutable_data_ptr<scalar>();
  // NaN stays: a comparison with it is false.
  map(hidden.numel(), number, number,
      [](Vector<scalar> x) { return x < 0 ? Vector<scalar>{} : x; });
  return after<scalar>(inputs, hidden, to_output, output_bias, norm, pre);
}

// Attention. `own`: the last slot of keys and values is room for those of the inputs.
Tensor look(const Tensor& inputs, const Tensor& keys, const Tensor& values,
            const std::optional<Tensor>& mask, const Tensor& weight, const Tensor& bias,
            const Tensor& to_output, const Tensor& output_bias, const Tensor& norm_weight,
            const Tensor& norm_bias, double epsilon, bool own, bool pre) {
  const Norm norm{norm_weight, norm_bias, epsilon};
  auto run = inputs.scalar_type() == at::kFloat ? look_of<float> : look_of<double>;
  return run(inputs, keys, values, mask, weight, bias, to_output, output_bias, norm, own, pre);
}

// The feed-forward network.
Tensor think(const Tensor& inputs, const Tensor& weight, const Tensor& bias,
             const Tensor& to_output, const Tensor& output_bias, const Tensor& norm_weight,
             const Tensor& norm_bias, double epsilon, bool pre) {
  const Norm norm{norm_weight, norm_bias, epsilon};
  auto run = inputs.scalar_type() == at::kFloat ? think_of<float> : think_of<double>;
  return run(inputs, weight, bias, to_output, output_bias, norm, pre);
}

}  // namespace
}  // namespace memnets

TORCH_LIBRARY_FRAGMENT(memnets, library) {
  library.def(
      "look(Tensor inputs, Tensor keys, Tensor values, Tensor? mask, Tensor weight, Tensor bias, "
      "Tensor to_output, Tensor output_bias, Tensor norm_weight, Tensor norm_bias, float epsilon, "
      "bool own, bool pre) -> Tensor");
  library.def(
      "think(Tensor inputs, Tensor weight, Tensor bias, Tensor to_output, Tensor output_bias, "
      "Tensor norm_weight, Tensor norm_bias, float epsilon, bool pre) -> Tensor");
}

TORCH_LIBRARY_IMPL(memnets, CPU, library) {
  library.impl("look", &memnets::look);
  library.impl("think", &memnets::think);
}
