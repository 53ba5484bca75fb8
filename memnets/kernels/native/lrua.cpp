// The memory with least recently used access, compiled by itself: without PyTorch's headers, and
// beside the other files.
#include "lrua.h"

namespace memnets {

template <typename scalar>
std::unique_ptr<Memory<scalar>> make_lrua(const int64_t* layout, const double* settings) {
  return std::make_unique<LRUA<scalar>>(layout[0], layout[1], layout[2], settings[0], settings[1]);
}

template std::unique_ptr<Memory<float>> make_lrua<float>(const int64_t*, const double*);
template std::unique_ptr<Memory<double>> make_lrua<double>(const int64_t*, const double*);

}  // namespace memnets
