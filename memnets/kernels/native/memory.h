// The contract between the run of a sequence and a memory.
#pragma once

#include <cstdint>

#include "common.h"

namespace memnets {

// A step of a memory, forward and backward, for one row of the batch at a time.
//
// The run owns all buffers. For each row it hands over:
//   - a *state*, `state_size` numbers. Each step has a buffer of its own: the step reads `before`
//     and writes `after`, and both are there again in the backward pass. Without gradients there
//     are two buffers in turn.
//   - *kept* numbers, `kept_size` of them: all else that the backward pass of the step needs;
//   - a *gradient* of the state, `gradient_size` numbers, changed in place by the backward pass;
//   - a *scratch* of `scratch_size` numbers, which holds nothing between two calls.
// All of them start at whole vectors, if the sizes are multiples of one: see `padded`. Different
// rows run in different threads, so that an object holds settings alone.
template <typename scalar>
struct Memory {
  int64_t interface_size = 0;
  int64_t read_size = 0;  // numbers that a step reads, all heads together
  int64_t state_size = 0;
  int64_t kept_size = 0;
  int64_t gradient_size = 0;
  int64_t scratch_size = 0;

  virtual ~Memory() = default;

  // From and to the tensors of the state, whose rows follow each other as in PyTorch, b being the
  // number of a row. The tensors of the gradient of a state are those of the state.
  virtual void load(int64_t b, const scalar* const* tensors, scalar* state) const = 0;
  virtual void save(int64_t b, const scalar* state, scalar* const* tensors) const = 0;
  virtual void load_gradient(int64_t b, const scalar* const* tensors, scalar* gradient) const = 0;
  virtual void save_gradient(int64_t b, const scalar* gradient, scalar* const* tensors) const = 0;

  // Take a step. `interface` holds raw numbers and may be changed; `vectors` are those read.
  virtual void forward(
      scalar* interface, const scalar* before, scalar* after, scalar* kept, scalar* vectors,
      scalar* scratch) const = 0;

  // `gradient` is that of the state after the step, then that of the state before it.
  virtual void backward(
      const scalar* before, const scalar* after, const scalar* kept,
      const scalar* vectors_gradient, scalar* gradient, scalar* interface_gradient,
      scalar* scratch) const = 0;
};

}  // namespace memnets
