// Products of matrices, all in rows as in PyTorch.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/from_blob.h>

#include "common.h"

// The BLAS that PyTorch itself uses, which its library passes on; null where it does not.
extern "C" {
#define MEMNETS_GEMM(name, scalar)                                                              \
  __attribute__((weak)) void name(const char*, const char*, const int64_t*, const int64_t*,     \
                                  const int64_t*, const scalar*, const scalar*, const int64_t*, \
                                  const scalar*, const int64_t*, const scalar*, scalar*,        \
                                  const int64_t*);
MEMNETS_GEMM(sgemm_, float)
MEMNETS_GEMM(dgemm_, double)
#undef MEMNETS_GEMM
}

namespace memnets {

namespace detail {

template <typename scalar>
constexpr auto gemm() {
  if constexpr (std::is_same_v<scalar, float>) {
    return &sgemm_;
  } else {
    return &dgemm_;
  }
}

}  // namespace detail

// A matrix within rows of a buffer.
template <typename scalar>
struct Rows {
  scalar* numbers;
  int64_t count, width, stride;

  Rows(scalar* numbers, int64_t count, int64_t width, int64_t stride)
      : numbers(numbers), count(count), width(width), stride(stride) {}
  Rows(scalar* numbers, int64_t count, int64_t width) : Rows(numbers, count, width, width) {}
};

// result += one @ other, or, with `turned`, result += one @ other.T.
template <bool turned, typename scalar>
void add_product(Rows<scalar> result, Rows<const scalar> one, Rows<const scalar> other) {
  if (one.count == 1) {
    // A vector and a matrix: the time is that of reading the matrix.
    scalar* to = result.numbers;
    const scalar* from = one.numbers;
    if constexpr (turned) {
      for (int64_t i = 0; i < other.count; i++) {
        to[i] += dot(one.width, from, other.numbers + i * other.stride);
      }
    } else {
      for (int64_t i = 0; i < other.count; i++) {
        const scalar factor = from[i];
        const scalar* row = other.numbers + i * other.stride;
        for (int64_t j = 0; j < other.width; j++) to[j] += factor * row[j];
      }
    }
    return;
  }
  const scalar unit = 1;
  // In columns, the layout of BLAS, all matrices are turned, and so is their order. Its whole
  // numbers have 32 or 64 bits: the low half of these is the same number.
  const int64_t m = result.width, n = result.count, k = one.width;
  if (auto gemm = detail::gemm<scalar>()) {
    gemm(turned ? "T" : "N", "N", &m, &n, &k, &unit, other.numbers, &other.stride, one.numbers,
         &one.stride, &unit, result.numbers, &result.stride);
    return;
  }
  at::AutoDispatchBelowADInplaceOrView guard;
  const auto type = c10::CppTypeToScalarType<scalar>::value;
  auto tensor = [&](auto rows) {
    return at::from_blob(const_cast<scalar*>(rows.numbers), {rows.count, rows.width},
                         {rows.stride, 1}, type);
  };
  at::Tensor sum = tensor(result), right = tensor(other);
  at::addmm_out(sum, sum, tensor(one), turned ? right.t() : right);
}

}  // namespace memnets
