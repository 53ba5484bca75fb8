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

// to[i] += sum_j from[j] matrix[i, j], for `count` rows of `width` numbers, `stride` apart.
template <typename scalar>
void add_dots(scalar* __restrict to, const scalar* __restrict from,
              const scalar* __restrict matrix, int64_t count, int64_t width, int64_t stride) {
  constexpr int64_t L = lanes<scalar>;
  int64_t i = 0;
  // Four rows at once: a sum waits for its last term.
  for (; i + 4 <= count; i += 4) {
    const scalar* row = matrix + i * stride;
    Vector<scalar> total[4] = {};
    int64_t j = 0;
    for (; j + L <= width; j += L) {
      const Vector<scalar> number = load(from + j);
      for (int k = 0; k < 4; k++) total[k] += number * load(row + k * stride + j);
    }
    scalar rest[4] = {};
    for (; j < width; j++) {
      for (int k = 0; k < 4; k++) rest[k] += from[j] * row[k * stride + j];
    }
    for (int k = 0; k < 4; k++) to[i + k] += sum<scalar>(total[k]) + rest[k];
  }
  for (; i < count; i++) to[i] += dot(width, from, matrix + i * stride);
}

// to[j] += sum_i from[i] matrix[i, j].
template <typename scalar>
void add_rows(scalar* __restrict to, const scalar* __restrict from,
              const scalar* __restrict matrix, int64_t count, int64_t width, int64_t stride) {
  constexpr int64_t L = lanes<scalar>;
  auto add = [&](auto rows, int64_t i) {
    constexpr int R = decltype(rows)::value;
    const scalar* row = matrix + i * stride;
    int64_t j = 0;
    for (; j + L <= width; j += L) {
      Vector<scalar> total = load(to + j);
      for (int k = 0; k < R; k++) total += from[i + k] * load(row + k * stride + j);
      store(to + j, total);
    }
    for (; j < width; j++) {
      for (int k = 0; k < R; k++) to[j] += from[i + k] * row[k * stride + j];
    }
  };
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) add(std::integral_constant<int, 8>(), i);
  for (; i < count; i++) add(std::integral_constant<int, 1>(), i);
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
    // A vector and a matrix, without the way into a library and back.
    if constexpr (turned) {
      detail::add_dots(result.numbers, one.numbers, other.numbers, other.count, one.width,
                       other.stride);
    } else {
      detail::add_rows(result.numbers, one.numbers, other.numbers, other.count, other.width,
                       other.stride);
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
