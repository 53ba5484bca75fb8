// Controllers: the network between the input and the memory, forward and backward.
//
// A run of T steps of B rows. Buffers are [T, B, ...], so that the rows of a step follow each
// other. `features` is [T + 1, B, hidden_size + read_size], [h_t, r_t] after t steps.
#pragma once

#include <vector>

#include <ATen/ops/addmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "products.h"

namespace memnets {

typedef std::vector<at::Tensor> Tensors;

// Sizes of a run.
struct Sizes {
  int64_t steps, batch, input, hidden, read;
  bool recorded;  // whether there will be a backward pass

  int64_t feature() const { return hidden + read; }
  // Where a step keeps its numbers: each in a place of its own, or all in the same.
  int64_t kept(int64_t t) const { return recorded ? t : 0; }
  int64_t kept_count() const { return recorded ? steps : 1; }
  // Where the state after t steps is.
  int64_t state(int64_t t) const { return recorded ? t : t % 2; }
  int64_t state_count() const { return recorded ? steps + 1 : 2; }
};

template <typename scalar>
scalar* numbers(const at::Tensor& tensor) {
  return tensor.numel() ? tensor.data_ptr<scalar>() : nullptr;
}

// A controller of a run. `active` holds for each row whether it takes the step; null = all do.
template <typename scalar>
struct Controller {
  virtual ~Controller() = default;

  // Tensors of the state after the last step, and those that backward needs.
  virtual Tensors state(const Sizes& sizes) const = 0;
  virtual Tensors kept() const = 0;

  // Rows low to high of step t: from `before` to the hidden part of `after`, features of the step.
  virtual void forward(const Sizes& sizes, int64_t t, int64_t low, int64_t high,
                       const scalar* before, scalar* after, const bool* active) = 0;

  // From the gradient of h_t, [high - low, hidden_size], which may be changed, to that of the
  // feature before the step, to which it is added.
  virtual void backward(const Sizes& sizes, int64_t t, int64_t low, int64_t high,
                        scalar* hidden_gradient, scalar* before_gradient, const bool* active) = 0;

  // Gradients of the weights, of the inputs [T * B, input_size] and of the state, after the last
  // call of backward. `before` and `after` are the features [T * B, feature_size] of all steps.
  virtual Tensors gradients(const at::Tensor& inputs, bool of_inputs, const at::Tensor& before,
                            const at::Tensor& after) = 0;
};

// An LSTM of one layer, with PyTorch's order of the gates: enter, forget, candidate, leave.
template <typename scalar>
struct LSTM final : Controller<scalar> {
  typedef Vector<scalar> vector;

  int64_t width;  // hidden size
  at::Tensor from_x, from_feature;
  at::Tensor gates, cells, squashed;
  at::Tensor gates_gradient, cell_gradient;

  // `inputs` is [T * B, input_size].
  LSTM(const Sizes& sizes, const Tensors& weights, const at::Tensor& inputs, const Tensors& state)
      : LSTM(sizes, weights) {
    gates = at::addmm(weights[2].add(weights[3]), inputs, from_x.t());
    cells = at::empty({sizes.state_count(), sizes.batch, width}, inputs.options());
    cells.select(0, 0).copy_(state[1]);
    squashed = at::empty({sizes.kept_count(), sizes.batch, width}, inputs.options());
  }

  // For the backward pass.
  LSTM(const Sizes& sizes, const Tensors& weights, const Tensors& kept,
       const Tensors& state_gradient, const at::Tensor& of_last_feature)
      : LSTM(sizes, weights) {
    gates = kept[0];
    cells = kept[1];
    squashed = kept[2];
    gates_gradient = at::empty_like(gates);
    cell_gradient = state_gradient[1].clone();
    of_last_feature.narrow(1, 0, width).add_(state_gradient[0]);
  }

  static constexpr int64_t kept_tensors = 3, state_tensors = 2;

  Tensors state(const Sizes& sizes) const override {
    return {cells.select(0, sizes.state(sizes.steps)).clone()};
  }

  Tensors kept() const override { return {gates, cells, squashed}; }

  void forward(const Sizes& sizes, int64_t t, int64_t low, int64_t high, const scalar* before,
               scalar* after, const bool* active) override {
    const int64_t h = width, F = sizes.feature(), B = sizes.batch;
    scalar* gate = numbers<scalar>(gates) + (t * B + low) * 4 * h;
    const scalar* cell = numbers<scalar>(cells) + (sizes.state(t) * B + low) * h;
    scalar* next_cell = numbers<scalar>(cells) + (sizes.state(t + 1) * B + low) * h;
    scalar* squash = numbers<scalar>(squashed) + (sizes.kept(t) * B + low) * h;
    add_product<true, scalar>({gate, high - low, 4 * h}, {before, high - low, F},
                              {numbers<scalar>(from_feature), 4 * h, F});
    for (int64_t b = low; b < high; b++, gate += 4 * h, cell += h, next_cell += h, squash += h,
                 after += F) {
      if (active && !active[b]) {
        std::memcpy(next_cell, cell, h * sizeof(scalar));
        continue;
      }
      map(2 * h, gate, gate, [](vector x) { return sigmoid<scalar>(x); });
      map(h, gate + 2 * h, gate + 2 * h, [](vector x) { return hyperbolic_tangent<scalar>(x); });
      map(h, gate + 3 * h, gate + 3 * h, [](vector x) { return sigmoid<scalar>(x); });
      for (int64_t i = 0; i < h; i++) {
        next_cell[i] = gate[h + i] * cell[i] + gate[i] * gate[2 * h + i];
      }
      map(h, next_cell, squash, [](vector x) { return hyperbolic_tangent<scalar>(x); });
      for (int64_t i = 0; i < h; i++) after[i] = gate[3 * h + i] * squash[i];
    }
  }

  void backward(const Sizes& sizes, int64_t t, int64_t low, int64_t high, scalar* hidden_gradient,
                scalar* before_gradient, const bool* active) override {
    const int64_t h = width, F = sizes.feature(), B = sizes.batch;
    const scalar* gate = numbers<scalar>(gates) + (t * B + low) * 4 * h;
    const scalar* cell = numbers<scalar>(cells) + (t * B + low) * h;
    const scalar* squash = numbers<scalar>(squashed) + (t * B + low) * h;
    scalar* of_cell = numbers<scalar>(cell_gradient) + low * h;
    scalar* const first = numbers<scalar>(gates_gradient) + (t * B + low) * 4 * h;
    scalar* of_gate = first;
    for (int64_t b = low; b < high; b++, gate += 4 * h, cell += h, squash += h, of_cell += h,
                 of_gate += 4 * h, hidden_gradient += h) {
      if (active && !active[b]) {
        std::memset(of_gate, 0, 4 * h * sizeof(scalar));
        continue;
      }
      step_gradient(h, gate, cell, squash, hidden_gradient, of_cell, of_gate);
    }
    add_product<false, scalar>({before_gradient, high - low, F}, {first, high - low, 4 * h},
                               {numbers<scalar>(from_feature), 4 * h, F});
  }

  Tensors gradients(const at::Tensor& inputs, bool of_inputs, const at::Tensor& before,
                    const at::Tensor& after) override {
    const at::Tensor turned = gates_gradient.t();
    const at::Tensor of_feature = at::mm(turned, before);
    const at::Tensor of_x = at::mm(turned, inputs);
    const at::Tensor bias = gates_gradient.sum(0);
    return {
        at::cat({of_x, of_feature.narrow(1, width, of_feature.size(1) - width)}, 1),
        of_feature.narrow(1, 0, width).contiguous(),
        bias,
        // Two biases with the same gradient; one tensor could be changed in place by both.
        bias.clone(),
        of_inputs ? at::mm(gates_gradient, from_x) : at::Tensor(),
        // The gradient of h_0 is that of the first feature.
        cell_gradient,
    };
  }

 private:
  LSTM(const Sizes& sizes, const Tensors& weights)
      : width(sizes.hidden),
        from_x(weights[0].narrow(1, 0, sizes.input)),
        from_feature(at::cat({weights[1], weights[0].narrow(1, sizes.input, sizes.read)}, 1)) {}

  static void step_gradient(int64_t h, const scalar* __restrict gate, const scalar* __restrict cell,
                            const scalar* __restrict squash, const scalar* __restrict of_hidden,
                            scalar* __restrict of_cell, scalar* __restrict of_gate) {
    for (int64_t i = 0; i < h; i++) {
      const scalar enter = gate[i], forget = gate[h + i], candidate = gate[2 * h + i],
                   leave = gate[3 * h + i], squashed = squash[i];
      const scalar flow = of_cell[i] + of_hidden[i] * leave * (1 - squashed * squashed);
      of_gate[i] = flow * candidate * enter * (1 - enter);
      of_gate[h + i] = flow * cell[i] * forget * (1 - forget);
      of_gate[2 * h + i] = flow * enter * (1 - candidate * candidate);
      of_gate[3 * h + i] = of_hidden[i] * squashed * leave * (1 - leave);
      of_cell[i] = flow * forget;
    }
  }
};

// Layers of tanh(W x + b).
template <typename scalar>
struct FeedForward final : Controller<scalar> {
  typedef Vector<scalar> vector;

  int64_t width, layers;
  at::Tensor from_x, from_read;
  Tensors weights;    // a matrix and a bias for each layer
  Tensors outputs;    // of each layer, [T, B, width]
  Tensors gradients_;  // of what goes into each tanh

  FeedForward(const Sizes& sizes, const Tensors& given, const at::Tensor& inputs)
      : FeedForward(sizes, given) {
    outputs.push_back(at::addmm(given[1], inputs, from_x.t()));
    for (int64_t layer = 1; layer < layers; layer++) {
      outputs.push_back(
          at::empty({sizes.kept_count() * sizes.batch, width}, inputs.options()));
    }
  }

  // For the backward pass.
  FeedForward(const Sizes& sizes, const Tensors& given, const Tensors& kept)
      : FeedForward(sizes, given) {
    outputs = kept;
    for (const at::Tensor& output : outputs) gradients_.push_back(at::empty_like(output));
  }

  static constexpr int64_t state_tensors = 0;

  Tensors state(const Sizes&) const override { return {}; }

  Tensors kept() const override { return outputs; }

  void forward(const Sizes& sizes, int64_t t, int64_t low, int64_t high, const scalar* before,
               scalar* after, const bool* active) override {
    const int64_t h = width, F = sizes.feature(), B = sizes.batch, count = high - low;
    const scalar* last = nullptr;
    for (int64_t layer = 0; layer < layers; layer++) {
      const int64_t place = layer == 0 ? t : sizes.kept(t);
      scalar* now = numbers<scalar>(outputs[layer]) + (place * B + low) * h;
      if (layer == 0) {
        add_product<true, scalar>({now, count, h}, {before + h, count, sizes.read, F},
                                  {numbers<scalar>(from_read), h, sizes.read});
      } else {
        const scalar* bias = numbers<scalar>(weights[2 * layer + 1]);
        for (int64_t b = 0; b < count; b++) std::memcpy(now + b * h, bias, h * sizeof(scalar));
        add_product<true, scalar>({now, count, h}, {last, count, h},
                                  {numbers<scalar>(weights[2 * layer]), h, h});
      }
      map(count * h, now, now, [](vector x) { return hyperbolic_tangent<scalar>(x); });
      last = now;
    }
    for (int64_t b = 0; b < count; b++) {
      if (!active || active[low + b]) std::memcpy(after + b * F, last + b * h, h * sizeof(scalar));
    }
  }

  void backward(const Sizes& sizes, int64_t t, int64_t low, int64_t high, scalar* hidden_gradient,
                scalar* before_gradient, const bool* active) override {
    const int64_t h = width, F = sizes.feature(), B = sizes.batch, count = high - low;
    for (int64_t layer = layers - 1; layer >= 0; layer--) {
      const scalar* output = numbers<scalar>(outputs[layer]) + (t * B + low) * h;
      scalar* now = numbers<scalar>(gradients_[layer]) + (t * B + low) * h;
      for (int64_t b = 0; b < count; b++) {
        const scalar skipped = active && !active[low + b] ? 0 : 1;
        for (int64_t i = b * h; i < (b + 1) * h; i++) {
          now[i] = skipped == 0 ? 0 : hidden_gradient[i] * (1 - output[i] * output[i]);
        }
      }
      if (layer > 0) {
        std::memset(hidden_gradient, 0, count * h * sizeof(scalar));
        add_product<false, scalar>({hidden_gradient, count, h}, {now, count, h},
                                   {numbers<scalar>(weights[2 * layer]), h, h});
      } else {
        add_product<false, scalar>({before_gradient + h, count, sizes.read, F}, {now, count, h},
                                   {numbers<scalar>(from_read), h, sizes.read});
      }
    }
  }

  Tensors gradients(const at::Tensor& inputs, bool of_inputs, const at::Tensor& before,
                    const at::Tensor&) override {
    Tensors result;
    for (int64_t layer = 0; layer < layers; layer++) {
      const at::Tensor turned = gradients_[layer].t();
      if (layer == 0) {
        const at::Tensor read = before.narrow(1, width, before.size(1) - width);
        result.push_back(at::cat({at::mm(turned, inputs), at::mm(turned, read)}, 1));
      } else {
        result.push_back(at::mm(turned, outputs[layer - 1]));
      }
      result.push_back(gradients_[layer].sum(0));
    }
    result.push_back(of_inputs ? at::mm(gradients_[0], from_x) : at::Tensor());
    return result;
  }

 private:
  FeedForward(const Sizes& sizes, const Tensors& given)
      : width(sizes.hidden),
        layers(given.size() / 2),
        from_x(given[0].narrow(1, 0, sizes.input)),
        from_read(given[0].narrow(1, sizes.input, sizes.read).contiguous()),
        weights(given) {}
};

}  // namespace memnets
