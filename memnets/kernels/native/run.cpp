// A whole run of a controller on a memory, forward and backward: the operators of this library.
//
// h_t = controller([x_t, r_{t-1}]), r_t = memory(U h_t + a), as memnets.cells.Loop defines it. Work
// that does not depend on the last step is done for all steps at once: the products with the inputs
// and the gradients of all weights. The rows of the batch do not know of each other, so that each
// thread takes some of them through all steps.

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "buffers.h"
#include "controllers.h"
#include "memory.h"

namespace memnets {
namespace {

// The memory of these settings. Its constructor takes them on trust, so that they are checked here.
template <typename scalar>
std::unique_ptr<Memory<scalar>> memory_of(
    const std::string& kind, at::IntArrayRef layout, at::ArrayRef<double> settings) {
  // Whether it is this memory, with as many numbers: the first `sizes` of the whole ones are at
  // least 1, the others at least 0.
  const auto is = [&](const char* name, size_t sizes, size_t others, size_t reals) {
    if (kind != name) return false;
    TORCH_CHECK(layout.size() == sizes + others && settings.size() == reals, kind, " needs ",
                sizes + others, " whole numbers and ", reals, " real ones; got ", layout.size(),
                " and ", settings.size());
    for (size_t i = 0; i < layout.size(); i++) {
      TORCH_CHECK(layout[i] >= (i < sizes), "a size of ", kind, " is out of range: ", layout);
    }
    return true;
  };
  const auto at_most = [&](int64_t less, int64_t most) {
    TORCH_CHECK(less <= most, "sizes of ", kind, " are out of range: ", layout);
  };
  if (is("NTM", 5, 1, 3) || is("PlacedNTM", 5, 1, 4)) {
    at_most(layout[3], layout[4]);  // moves, slots
    return kind == "NTM" ? make_ntm<scalar>(layout.data(), settings.data())
                         : make_placed_ntm<scalar>(layout.data(), settings.data());
  }
  if (is("DNC", 3, 0, 2)) return make_dnc<scalar>(layout.data(), settings.data());
  if (is("LRUA", 3, 0, 2)) {
    at_most(layout[0], layout[2]);  // heads, slots
    return make_lrua<scalar>(layout.data(), settings.data());
  }
  if (kind == "Stack" && layout.size() == 4 && is("Stack", 4, 0, layout[0] * layout[1])) {
    at_most(layout[3], layout[2]);  // visible slots, slots
    return make_stack<scalar>(layout.data(), settings.data());
  }
  if (is("MovingTape", 3, 1, 0)) return make_moving_tape<scalar>(layout.data(), settings.data());
  if (is("Strengths", 2, 3, 0)) {
    at_most(layout[2], 2);          // the kind
    at_most(layout[3], layout[4]);  // slots before and after the run
    return make_strengths<scalar>(layout.data(), settings.data());
  }
  if (is("Tape", 2, 2, 1)) {
    at_most(layout[2], layout[3]);  // slots before and after the run
    return make_tape<scalar>(layout.data(), settings.data());
  }
  TORCH_CHECK(false, "no memory is called ", kind, ", with ", layout.size(), " whole numbers");
}

template <typename scalar>
using Scratch = std::vector<Vector<scalar>>;

template <typename scalar>
scalar* start(Scratch<scalar>& scratch) {
  return reinterpret_cast<scalar*>(scratch.data());
}

template <typename scalar>
Scratch<scalar> scratch(int64_t size) {
  return Scratch<scalar>(padded<scalar>(size) / lanes<scalar>);
}

template <typename scalar>
std::vector<scalar*> all_numbers(at::TensorList tensors) {
  std::vector<scalar*> result;
  for (const at::Tensor& tensor : tensors) result.push_back(numbers<scalar>(tensor));
  return result;
}

// The bulks of the state that a run keeps: of the steps 0, `stride`, 2 `stride` and so on, and one
// more, in which the steps between write over each other; one that grows is alone.
template <typename scalar>
struct Bulks {
  const int64_t size, stride, batch, steps;
  const bool recorded;  // whether some are kept
  scalar* place = nullptr;

  Bulks(const Memory<scalar>& memory, const Sizes& sizes)
      : size(memory.bulk_size), stride(memory.stride), batch(sizes.batch), steps(sizes.steps),
        recorded(sizes.recorded && !memory.grows) {}

  int64_t kept() const { return recorded ? (steps + stride - 1) / stride : 0; }

  // That before step t, for row b.
  scalar* at(int64_t t, int64_t b) const {
    const bool own = recorded && t % stride == 0 && t < steps;
    return place + ((own ? t / stride : kept()) * batch + b) * size;
  }

  // The last that was kept up to step t.
  scalar* before(int64_t t, int64_t b) const { return at(t / stride * stride, b); }
};

// Calls `take(low, high)` for groups of as many rows as suit the memory, in several threads.
template <typename scalar, typename Take>
void rows(int64_t batch, const Memory<scalar>& memory, Take take) {
  at::parallel_for(0, batch, 1, [&](int64_t first, int64_t last) {
    const NormalNumbers normal(memory.normal);
    const int64_t parts = (last - first + memory.rows - 1) / memory.rows;
    for (int64_t part = 0; part < parts; part++) {
      take(first + (last - first) * part / parts, first + (last - first) * (part + 1) / parts);
    }
  });
}

// [B, T, ...] -> [T, B, ...], in a tensor of its own.
at::Tensor by_steps(const at::Tensor& tensor) { return tensor.transpose(0, 1).contiguous(); }

// What is given to a run, apart from numbers.
struct Machine {
  std::string controller, memory;
  at::IntArrayRef layout;
  at::ArrayRef<double> settings;
  at::TensorList weights;  // of the controller, then U and a

  Tensors of_controller() const { return weights.slice(0, weights.size() - 2).vec(); }
  const at::Tensor& to_interface() const { return weights[weights.size() - 2]; }
  const at::Tensor& bias() const { return weights[weights.size() - 1]; }
  // The state is that of the controller, the vector read, and that of the memory.
  int64_t state_tensors() const { return controller == "LSTM" ? 2 : 0; }
};

// A tensor that the run reads where it lies: of this type and shape, its numbers in order.
template <typename scalar>
void check(const at::Tensor& given, at::IntArrayRef shape, const char* name) {
  TORCH_CHECK(given.defined() && given.sizes() == shape, name, " must be ", shape, "; got ",
              given.sizes());
  TORCH_CHECK(given.scalar_type() == c10::CppTypeToScalarType<scalar>::value &&
                  given.device().is_cpu() && given.is_contiguous(),
              name, " must be contiguous, of the type of the inputs, on the CPU");
}

// The tensors of a state, or of its gradient, in which those of the memory may be missing.
template <typename scalar>
void check_state(const Machine& machine, const Sizes& sizes, const Memory<scalar>& memory,
                 at::TensorList state, bool may_miss) {
  const size_t first = machine.state_tensors() + 1, all = first + memory.parts.size();
  TORCH_CHECK(state.size() == all || (may_miss && state.size() == first), "a state has ", all,
              " tensors; got ", state.size());
  for (size_t i = 0; i + 1 < first; i++) {
    check<scalar>(state[i], {sizes.batch, sizes.hidden}, "the state of the controller");
  }
  check<scalar>(state[first - 1], {sizes.batch, memory.read_size}, "the vector read");
  for (size_t i = first; i < state.size(); i++) {
    const int64_t numbers = sizes.batch * memory.parts[i - first];
    TORCH_CHECK(state[i].dim() > 0 && state[i].size(0) == sizes.batch, "the state has ",
                sizes.batch, " rows; got ", state[i].sizes());
    check<scalar>(state[i], state[i].sizes(), "the state of the memory");
    TORCH_CHECK(state[i].numel() == numbers, "a tensor of the state of ", machine.memory, " has ",
                numbers, " numbers; got ", state[i].sizes());
  }
}

// Whatever Python hands over, nothing below reads or writes beyond a tensor.
template <typename scalar>
void check_weights(const Machine& machine, const Sizes& sizes, const Memory<scalar>& memory) {
  const int64_t h = sizes.hidden, width = sizes.input + memory.read_size;
  const bool lstm = machine.controller == "LSTM";
  TORCH_CHECK(lstm || machine.controller == "FeedForward", "no controller is called ",
              machine.controller);
  const Tensors weights = machine.of_controller();
  TORCH_CHECK(lstm ? weights.size() == 4 : !weights.empty() && weights.size() % 2 == 0,
              machine.controller, " has a matrix and a bias each; got ", weights.size(),
              " tensors");
  if (lstm) {
    check<scalar>(weights[0], {4 * h, width}, "the weight of the input");
    check<scalar>(weights[1], {4 * h, h}, "the weight of the hidden vector");
    check<scalar>(weights[2], {4 * h}, "the bias of the input");
    check<scalar>(weights[3], {4 * h}, "the bias of the hidden vector");
  } else {
    for (size_t i = 0; i < weights.size(); i += 2) {
      check<scalar>(weights[i], {h, i == 0 ? width : h}, "the weight of a layer");
      check<scalar>(weights[i + 1], {h}, "the bias of a layer");
    }
  }
  check<scalar>(machine.to_interface(), {memory.interface_size, h}, "the weight of the interface");
  check<scalar>(machine.bias(), {memory.interface_size}, "the bias of the interface");
}

void check_mask(const std::optional<at::Tensor>& mask, const Sizes& sizes) {
  TORCH_CHECK(!mask || (mask->scalar_type() == at::kBool && mask->dim() == 2 &&
                        mask->size(0) == sizes.batch && mask->size(1) == sizes.steps),
              "the mask must be bool [", sizes.batch, ", ", sizes.steps, "]");
}

// The sizes of a machine's weights, before its memory is known.
void check_machine(const Machine& machine, size_t state, int64_t dims) {
  TORCH_CHECK(machine.weights.size() >= 4 && machine.to_interface().dim() == 2,
              "the weights must be those of a controller, and a matrix and a bias of the interface");
  TORCH_CHECK(dims == 3, "inputs and outputs must be [B, T, width]; got ", dims, " dimensions");
  TORCH_CHECK(state > size_t(machine.state_tensors()), "the state has no vector read");
}

template <typename scalar>
Tensors forward_of(const Machine& machine, const at::Tensor& given,
                   const std::optional<at::Tensor>& given_mask,
                   const std::optional<at::Tensor>& noise, at::TensorList state, bool recorded) {
  const int64_t first = machine.state_tensors();
  check_machine(machine, state.size(), given.dim());
  const auto memory = memory_of<scalar>(machine.memory, machine.layout, machine.settings);
  const at::Tensor &read = state[first], &to_interface = machine.to_interface();
  const Tensors access = state.slice(first + 1).vec();
  const Sizes sizes{given.size(1), given.size(0), given.size(2), to_interface.size(1),
                    memory->read_size, recorded};
  check_weights(machine, sizes, *memory);
  check_state(machine, sizes, *memory, state, false);
  check_mask(given_mask, sizes);
  if (noise) {
    check<scalar>(*noise, {sizes.steps, sizes.batch, memory->interface_size}, "the noise");
  }
  const int64_t T = sizes.steps, B = sizes.batch, h = sizes.hidden, F = sizes.feature();
  const int64_t I = memory->interface_size, S = memory->state_size, K = memory->kept_size;
  const auto options = given.options();

  const at::Tensor inputs = by_steps(given).view({T * B, sizes.input});
  std::unique_ptr<Controller<scalar>> controller;
  if (machine.controller == "LSTM") {
    controller = std::make_unique<LSTM<scalar>>(
        sizes, machine.of_controller(), inputs, state.slice(0, first).vec());
  } else {
    controller = std::make_unique<FeedForward<scalar>>(sizes, machine.of_controller(), inputs);
  }
  const at::Tensor mask = given_mask ? by_steps(*given_mask) : at::Tensor();
  const at::Tensor features = at::empty({sizes.state_count(), B, F}, options);
  if (first > 0) {
    features.select(0, 0).narrow(1, 0, h).copy_(state[0]);
  } else {
    features.select(0, 0).narrow(1, 0, h).zero_();
  }
  features.select(0, 0).narrow(1, h, sizes.read).copy_(read);
  const at::Tensor outputs = at::empty({B, T, F}, options);
  const at::Tensor states = Buffers::empty({sizes.state_count(), B, S}, options);
  const at::Tensor kept = Buffers::empty({sizes.kept_count(), B, K}, options);
  Bulks<scalar> bulks(*memory, sizes);
  const at::Tensor bulk = Buffers::empty({bulks.kept() + 1, B, bulks.size}, options);
  bulks.place = numbers<scalar>(bulk);
  Tensors last;
  for (const at::Tensor& one : access) last.push_back(Buffers::empty(one.sizes(), options));

  const auto from = all_numbers<scalar>(access), to = all_numbers<scalar>(last);
  const scalar* weights = numbers<scalar>(to_interface);
  const scalar* bias = numbers<scalar>(machine.bias());
  const scalar* noises = noise ? numbers<scalar>(*noise) : nullptr;
  const bool* active = mask.defined() ? mask.data_ptr<bool>() : nullptr;
  scalar* feature = numbers<scalar>(features);
  scalar* output = numbers<scalar>(outputs);
  scalar* place = numbers<scalar>(states);
  scalar* keep = numbers<scalar>(kept);

  rows(B, *memory, [&](int64_t low, int64_t high) {
    const int64_t count = high - low;
    auto work = scratch<scalar>(memory->scratch_size), drive = scratch<scalar>(count * I);
    scalar* const interfaces = start<scalar>(drive);
    for (int64_t b = low; b < high; b++) {
      memory->load(b, from.data(), place + b * S, bulks.at(0, b));
    }
    for (int64_t t = 0; t < T; t++) {
      const bool* taken = active ? active + t * B : nullptr;
      const scalar* before = feature + (sizes.state(t) * B + low) * F;
      scalar* after = feature + (sizes.state(t + 1) * B + low) * F;
      controller->forward(sizes, t, low, high, before, after, taken);
      for (int64_t b = 0; b < count; b++) {
        scalar* interface = interfaces + b * I;
        std::memcpy(interface, bias, I * sizeof(scalar));
        if (noises) {
          const scalar* one = noises + (t * B + low + b) * I;
          for (int64_t i = 0; i < I; i++) interface[i] += one[i];
        }
        if (taken && !taken[low + b]) {
          std::memcpy(after + b * F, before + b * F, F * sizeof(scalar));
        }
      }
      add_product<true, scalar>({interfaces, count, I}, {after, count, h, F}, {weights, I, h});
      for (int64_t b = low; b < high; b++) {
        const scalar* old = place + (sizes.state(t) * B + b) * S;
        scalar* next = place + (sizes.state(t + 1) * B + b) * S;
        scalar* row = after + (b - low) * F;
        const scalar* old_bulk = bulks.at(t, b);
        scalar* next_bulk = bulks.at(t + 1, b);
        if (taken && !taken[b]) {
          std::memcpy(next, old, S * sizeof(scalar));
          if (next_bulk != old_bulk) std::memcpy(next_bulk, old_bulk, bulks.size * sizeof(scalar));
        } else {
          memory->forward(interfaces + (b - low) * I, old, next, old_bulk, next_bulk,
                          keep + (sizes.kept(t) * B + b) * K, row + h, start<scalar>(work));
        }
        std::memcpy(output + (b * T + t) * F, row, F * sizeof(scalar));
      }
    }
    for (int64_t b = low; b < high; b++) {
      memory->save(b, place + (sizes.state(T) * B + b) * S, bulks.at(T, b), to.data());
    }
  });

  Tensors result = {outputs};
  const at::Tensor feature_at_end = features.select(0, sizes.state(T));
  if (first > 0) {
    result.push_back(feature_at_end.narrow(1, 0, h).clone());
    for (const at::Tensor& one : controller->state(sizes)) result.push_back(one);
  }
  result.push_back(feature_at_end.narrow(1, h, sizes.read).clone());
  result.insert(result.end(), last.begin(), last.end());
  if (recorded) {
    for (const at::Tensor& one : {inputs, features, states, kept, bulk}) result.push_back(one);
    for (const at::Tensor& one : controller->kept()) result.push_back(one);
  }
  return result;
}

template <typename scalar>
Tensors backward_of(const Machine& machine, const std::optional<at::Tensor>& given_mask,
                    at::TensorList saved, const at::Tensor& gradient,
                    at::TensorList state_gradient, bool of_inputs) {
  const int64_t first = machine.state_tensors();
  check_machine(machine, state_gradient.size(), gradient.dim());
  const size_t own = first > 0 ? 3 : (machine.weights.size() - 2) / 2;
  TORCH_CHECK(saved.size() == 5 + own && saved[0].dim() == 2, "a run keeps ", 5 + own,
              " tensors; got ", saved.size());
  const at::Tensor &inputs = saved[0], &features = saved[1], &states = saved[2], &kept = saved[3],
                   &bulk = saved[4];
  const auto memory = memory_of<scalar>(machine.memory, machine.layout, machine.settings);
  const at::Tensor &to_interface = machine.to_interface(), &of_read = state_gradient[first];
  const Sizes sizes{gradient.size(1), gradient.size(0), inputs.size(1), to_interface.size(1),
                    memory->read_size, true};
  check_weights(machine, sizes, *memory);
  check_state(machine, sizes, *memory, state_gradient, true);
  check_mask(given_mask, sizes);
  const int64_t T = sizes.steps, B = sizes.batch, h = sizes.hidden, F = sizes.feature();
  const int64_t I = memory->interface_size, S = memory->state_size, K = memory->kept_size,
                G = memory->gradient_size;
  check<scalar>(gradient, {B, T, F}, "the gradient of the outputs");
  check<scalar>(inputs, {T * B, sizes.input}, "the inputs that a run keeps");
  check<scalar>(features, {T + 1, B, F}, "the features that a run keeps");
  check<scalar>(states, {T + 1, B, S}, "the states that a run keeps");
  check<scalar>(kept, {T, B, K}, "what the steps of a run keep");
  check<scalar>(bulk, {Bulks<scalar>(*memory, sizes).kept() + 1, B, memory->bulk_size},
                "the bulks that a run keeps");
  for (size_t i = 0; i < own; i++) {
    // Of an LSTM the gates [T B, 4 h], the cells [T + 1, B, h] and their tanh; else layers [T B, h].
    const int64_t rows = first > 0 && i == 1 ? T + 1 : T, width = first > 0 && i == 0 ? 4 * h : h;
    check<scalar>(saved[5 + i], saved[5 + i].sizes(), "what the controller keeps");
    TORCH_CHECK(saved[5 + i].numel() == rows * B * width, "the controller keeps ",
                rows * B * width, " numbers; got ", saved[5 + i].numel());
  }
  const auto options = gradient.options();

  // Gradient of the last feature, which is also a state, and then of each feature before it.
  const at::Tensor flow = at::zeros({B, F}, options);
  flow.narrow(1, h, sizes.read).copy_(of_read);
  std::unique_ptr<Controller<scalar>> controller;
  const Tensors of_controller = saved.slice(5).vec();
  if (machine.controller == "LSTM") {
    controller = std::make_unique<LSTM<scalar>>(sizes, machine.of_controller(), of_controller,
                                                state_gradient.slice(0, first).vec(), flow);
  } else {
    controller =
        std::make_unique<FeedForward<scalar>>(sizes, machine.of_controller(), of_controller);
  }
  const at::Tensor mask = given_mask ? by_steps(*given_mask) : at::Tensor();
  const at::Tensor interface_gradient = at::empty({T * B, I}, options);
  Bulks<scalar> bulks(*memory, sizes);
  bulks.place = numbers<scalar>(bulk);
  const at::Tensor memory_gradient = Buffers::empty({B, G}, options);
  const Tensors given = state_gradient.slice(first + 1).vec();
  Tensors of_access;
  for (const at::Tensor& one : given) of_access.push_back(Buffers::empty(one.sizes(), options));

  const auto from = all_numbers<scalar>(given), to = all_numbers<scalar>(of_access);
  const scalar* weights = numbers<scalar>(to_interface);
  const bool* active = mask.defined() ? mask.data_ptr<bool>() : nullptr;
  const scalar* of_output = numbers<scalar>(gradient);
  const scalar* place = numbers<scalar>(states);
  const scalar* keep = numbers<scalar>(kept);
  scalar* of_feature = numbers<scalar>(flow);
  scalar* of_interface = numbers<scalar>(interface_gradient);
  scalar* of_memory = numbers<scalar>(memory_gradient);

  rows(B, *memory, [&](int64_t low, int64_t high) {
    const int64_t count = high - low;
    auto work = scratch<scalar>(memory->scratch_size), hidden = scratch<scalar>(count * h);
    scalar* const of_hidden = start<scalar>(hidden);
    std::vector<Taken<scalar>> steps(bulks.stride);
    scalar* const now = of_feature + low * F;
    for (int64_t b = low; b < high; b++) {
      if (from.empty()) {  // of a last state that nobody uses
        std::memset(of_memory + b * G, 0, G * sizeof(scalar));
      } else {
        memory->load_gradient(b, from.data(), of_memory + b * G);
      }
    }
    for (int64_t t = T - 1; t >= 0; t--) {
      const bool* taken = active ? active + t * B : nullptr;
      for (int64_t b = low; b < high; b++) {
        const scalar* more = of_output + (b * T + t) * F;
        scalar* row = of_feature + b * F;
        for (int64_t i = 0; i < F; i++) row[i] += more[i];
        scalar* of_row = of_interface + (t * B + b) * I;
        if (taken && !taken[b]) {
          std::memset(of_row, 0, I * sizeof(scalar));
          std::memset(of_hidden + (b - low) * h, 0, h * sizeof(scalar));
          continue;
        }
        int64_t past = 0;
        for (int64_t k = t / bulks.stride * bulks.stride; k <= t; k++) {
          if (active && !active[k * B + b]) continue;
          steps[past++] = {place + (k * B + b) * S, place + ((k + 1) * B + b) * S,
                           keep + (k * B + b) * K};
        }
        memory->backward(steps.data(), past, bulks.before(t, b), row + h, of_memory + b * G, of_row,
                         start<scalar>(work));
        std::memcpy(of_hidden + (b - low) * h, row, h * sizeof(scalar));
        // The controller adds to this; the feature of a skipped step is that of the step before.
        std::memset(row, 0, F * sizeof(scalar));
      }
      add_product<false, scalar>({of_hidden, count, h}, {of_interface + (t * B + low) * I, count, I},
                                 {weights, I, h});
      controller->backward(sizes, t, low, high, of_hidden, now, taken);
    }
    for (int64_t b = low; b < high; b++) {
      if (!to.empty()) memory->save_gradient(b, of_memory + b * G, to.data());
    }
  });

  const at::Tensor before = features.narrow(0, 0, T).view({T * B, F});
  const at::Tensor after = features.narrow(0, 1, T).view({T * B, F});
  // Of the controller's weights, the inputs, and the controller's state without the features.
  Tensors result = controller->gradients(inputs, of_inputs, before, after);
  const auto inputs_at = result.begin() + (machine.weights.size() - 2);
  at::Tensor inputs_gradient = *inputs_at;
  Tensors of_state(inputs_at + 1, result.end());
  result.erase(inputs_at, result.end());
  result.push_back(at::mm(interface_gradient.t(), after.narrow(1, 0, h)));
  result.push_back(interface_gradient.sum(0));
  result.push_back(of_inputs ? by_steps(inputs_gradient.view({T, B, sizes.input}))
                             : at::empty({0}, options));
  if (first > 0) result.push_back(flow.narrow(1, 0, h).clone());
  result.insert(result.end(), of_state.begin(), of_state.end());
  result.push_back(flow.narrow(1, h, sizes.read).clone());
  result.insert(result.end(), of_access.begin(), of_access.end());
  return result;
}

Tensors forward(std::string controller, std::string memory, at::IntArrayRef layout,
                at::ArrayRef<double> settings, at::TensorList weights, const at::Tensor& inputs,
                const std::optional<at::Tensor>& mask, const std::optional<at::Tensor>& noise,
                at::TensorList state, bool recorded) {
  const Machine machine{controller, memory, layout, settings, weights};
  return inputs.scalar_type() == at::kFloat
             ? forward_of<float>(machine, inputs, mask, noise, state, recorded)
             : forward_of<double>(machine, inputs, mask, noise, state, recorded);
}

Tensors backward(std::string controller, std::string memory, at::IntArrayRef layout,
                 at::ArrayRef<double> settings, at::TensorList weights,
                 const std::optional<at::Tensor>& mask, at::TensorList saved,
                 const at::Tensor& gradient, at::TensorList state_gradient, bool of_inputs) {
  const Machine machine{controller, memory, layout, settings, weights};
  return gradient.scalar_type() == at::kFloat
             ? backward_of<float>(machine, mask, saved, gradient, state_gradient, of_inputs)
             : backward_of<double>(machine, mask, saved, gradient, state_gradient, of_inputs);
}

// Widths of the interface and of what a step reads, for a memory with these settings.
std::vector<int64_t> sizes(std::string memory, at::IntArrayRef layout,
                           at::ArrayRef<double> settings) {
  const auto made = memory_of<double>(memory, layout, settings);
  return {made->interface_size, made->read_size};
}

}  // namespace
}  // namespace memnets

TORCH_LIBRARY(memnets, library) {
  library.def("sizes(str memory, int[] layout, float[] settings) -> int[]", &memnets::sizes);
  library.def(
      "run(str controller, str memory, int[] layout, float[] settings, Tensor[] weights, "
      "Tensor inputs, Tensor? mask, Tensor? noise, Tensor[] state, bool recorded) -> Tensor[]");
  library.def(
      "run_backward(str controller, str memory, int[] layout, float[] settings, Tensor[] weights, "
      "Tensor? mask, Tensor[] saved, Tensor gradient, Tensor[] state_gradient, "
      "bool of_inputs) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(memnets, CPU, library) {
  library.impl("run", &memnets::forward);
  library.impl("run_backward", &memnets::backward);
}
