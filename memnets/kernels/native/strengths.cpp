// Stacks, queues and deques with strengths, compiled by themselves: without PyTorch's headers, and
// beside the other files.
#include "strengths.h"

namespace memnets {

template <typename scalar>
std::unique_ptr<Memory<scalar>> make_strengths(const int64_t* layout, const double*) {
  return std::make_unique<Strengths<scalar>>(
      layout[0], layout[1], layout[2], layout[3], layout[4]);
}

template std::unique_ptr<Memory<float>> make_strengths<float>(const int64_t*, const double*);
template std::unique_ptr<Memory<double>> make_strengths<double>(const int64_t*, const double*);

}  // namespace memnets
