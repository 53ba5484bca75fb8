// Stacks and tapes that move, compiled by themselves: without PyTorch's headers, and beside the
// other files.
#include "shifting.h"

namespace memnets {

template <typename scalar>
std::unique_ptr<Memory<scalar>> make_stack(const int64_t* layout, const double* settings) {
  return std::make_unique<Stack<scalar>>(layout[0], layout[1], layout[2], layout[3], settings);
}

template <typename scalar>
std::unique_ptr<Memory<scalar>> make_moving_tape(const int64_t* layout, const double*) {
  return std::make_unique<MovingTape<scalar>>(layout[0], layout[1], layout[2], layout[3] != 0);
}

template std::unique_ptr<Memory<float>> make_stack<float>(const int64_t*, const double*);
template std::unique_ptr<Memory<double>> make_stack<double>(const int64_t*, const double*);
template std::unique_ptr<Memory<float>> make_moving_tape<float>(const int64_t*, const double*);
template std::unique_ptr<Memory<double>> make_moving_tape<double>(const int64_t*, const double*);

}  // namespace memnets
