// The NTM's memory, compiled by itself: without PyTorch's headers, and beside the other files.
#include "ntm.h"

namespace memnets {

template <typename scalar>
std::unique_ptr<Memory<scalar>> make_ntm(const int64_t* layout, const double* settings) {
  return std::make_unique<NTM<scalar>>(layout[0], layout[1], layout[2], layout[3], layout[4],
                                       layout[5] != 0, settings[0], settings[1], settings[2]);
}

template <typename scalar>
std::unique_ptr<Memory<scalar>> make_placed_ntm(const int64_t* layout, const double* settings) {
  return std::make_unique<PlacedNTM<scalar>>(layout[0], layout[1], layout[2], layout[3], layout[4],
                                             settings[0], settings[1], settings[2], settings[3]);
}

template std::unique_ptr<Memory<float>> make_ntm<float>(const int64_t*, const double*);
template std::unique_ptr<Memory<double>> make_ntm<double>(const int64_t*, const double*);
template std::unique_ptr<Memory<float>> make_placed_ntm<float>(const int64_t*, const double*);
template std::unique_ptr<Memory<double>> make_placed_ntm<double>(const int64_t*, const double*);

}  // namespace memnets
