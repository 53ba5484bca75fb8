// The DNC's memory, compiled by itself: without PyTorch's headers, and beside the other files.
#include "dnc.h"

namespace memnets {

template <typename scalar>
std::unique_ptr<Memory<scalar>> make_dnc(const int64_t* layout, const double* settings) {
  return std::make_unique<DNC<scalar>>(layout[0], layout[1], layout[2], settings[0], settings[1]);
}

template std::unique_ptr<Memory<float>> make_dnc<float>(const int64_t*, const double*);
template std::unique_ptr<Memory<double>> make_dnc<double>(const int64_t*, const double*);

}  // namespace memnets
