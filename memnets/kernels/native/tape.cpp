// The tape that grows, compiled by itself: without PyTorch's headers, and beside the other files.
#include "tape.h"

namespace memnets {

template <typename scalar>
std::unique_ptr<Memory<scalar>> make_tape(const int64_t* layout, const double* settings) {
  return std::make_unique<Tape<scalar>>(layout[0], layout[1], layout[2], layout[3], settings[0]);
}

template std::unique_ptr<Memory<float>> make_tape<float>(const int64_t*, const double*);
template std::unique_ptr<Memory<double>> make_tape<double>(const int64_t*, const double*);

}  // namespace memnets
