// The contract between the run of a sequence and a memory.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common.h"

namespace memnets {

// A step that was taken, in the backward pass: the state before and after it, and what was kept.
template <typename scalar>
struct Taken {
  const scalar *before, *after, *kept;
};

// A step of a memory, forward and backward, for one row of the batch at a time.
//
// The run owns all buffers. For each row it hands over:
//   - a *state*, `state_size` numbers. Each step has a buffer of its own: the step reads `before`
//     and writes `after`, and both are there again in the backward pass. Without gradients there
//     are two buffers in turn.
//   - a *bulk*, `bulk_size` numbers: the part of a state that is too large to keep for each step.
//     It is kept at every `stride`-th step alone. A step may write it where it reads it. A bulk that
//     `grows` is one for the whole run: steps write behind what is there and change nothing, and
//     the backward pass of each finds all of it;
//   - *kept* numbers, `kept_size` of them: all else that the backward pass of the step needs;
//   - a *gradient* of the state, `gradient_size` numbers, changed in place by the backward pass;
//   - a *scratch* of `scratch_size` numbers, which holds nothing between two calls.
// All of them start at whole vectors, if the sizes are multiples of one: see `padded`. Different
// rows run in different threads, so that an object holds settings alone.
template <typename scalar>
struct Memory {
  int64_t interface_size = 0;
  int64_t read_size = 0;  // numbers that a step reads, all heads together
  std::vector<int64_t> parts;  // numbers of a row in each tensor of the state
  int64_t state_size = 0;
  int64_t bulk_size = 0;
  int64_t stride = 1;
  bool grows = false;
  int64_t kept_size = 0;
  int64_t gradient_size = 0;
  int64_t scratch_size = 0;

  // Most rows that a thread takes through all steps at once, so that their memories stay near the
  // processor; with fewer, the products of matrices would suffer.
  int64_t rows = 16;

  // Whether numbers below the normal ones may count as 0: see NormalNumbers.
  bool normal = false;

  virtual ~Memory() = default;

  // From and to the tensors of the state, whose rows follow each other as in PyTorch, b being the
  // number of a row. The tensors of the gradient of a state are those of the state.
  virtual void load(
      int64_t b, const scalar* const* tensors, scalar* state, scalar* bulk) const = 0;
  virtual void save(
      int64_t b, const scalar* state, const scalar* bulk, scalar* const* tensors) const = 0;
  virtual void load_gradient(int64_t b, const scalar* const* tensors, scalar* gradient) const = 0;
  virtual void save_gradient(int64_t b, const scalar* gradient, scalar* const* tensors) const = 0;

  // Take a step. `interface` holds raw numbers and may be changed; `vectors` are those read.
  virtual void forward(
      scalar* interface, const scalar* before, scalar* after, const scalar* bulk_before,
      scalar* bulk_after, scalar* kept, scalar* vectors, scalar* scratch) const = 0;

  // Backward of the last of `count` steps. They are those that were taken since `bulk` was kept,
  // before the first of them. `gradient` is that of the state after the step, then that before it.
  virtual void backward(
      const Taken<scalar>* steps, int64_t count, const scalar* bulk,
      const scalar* vectors_gradient, scalar* gradient, scalar* interface_gradient,
      scalar* scratch) const = 0;
};

// The memories, from the whole numbers and the real numbers of their settings, in the order of the
// arguments of their constructors. Each is compiled in a file of its own.
template <typename scalar>
std::unique_ptr<Memory<scalar>> make_ntm(const int64_t* layout, const double* settings);
template <typename scalar>
std::unique_ptr<Memory<scalar>> make_placed_ntm(const int64_t* layout, const double* settings);
template <typename scalar>
std::unique_ptr<Memory<scalar>> make_dnc(const int64_t* layout, const double* settings);
template <typename scalar>
std::unique_ptr<Memory<scalar>> make_lrua(const int64_t* layout, const double* settings);
template <typename scalar>
std::unique_ptr<Memory<scalar>> make_stack(const int64_t* layout, const double* settings);
template <typename scalar>
std::unique_ptr<Memory<scalar>> make_moving_tape(const int64_t* layout, const double* settings);
template <typename scalar>
std::unique_ptr<Memory<scalar>> make_strengths(const int64_t* layout, const double* settings);
template <typename scalar>
std::unique_ptr<Memory<scalar>> make_tape(const int64_t* layout, const double* settings);

}  // namespace memnets
