// Vectors of numbers, and the functions of them that a memory needs.
//
// Rows are padded to a whole number of vectors, so that loops over slots have no rest. The types
// are the vector extensions of GCC and Clang: the compiler chooses the instructions of the
// processor. All functions keep infinities and NaN; nothing here may be built with -ffast-math.
#pragma once

#include <cstdint>
#include <cstring>
#include <cmath>
#include <limits>
#include <utility>
#include <type_traits>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace memnets {

#if defined(__AVX512F__)
#define MEMNETS_BYTES 64
#elif defined(__AVX__)
#define MEMNETS_BYTES 32
#else
#define MEMNETS_BYTES 16
#endif

#define MEMNETS_INLINE inline __attribute__((always_inline))

template <typename scalar>
struct Types;

template <>
struct Types<float> {
  typedef float vector __attribute__((vector_size(MEMNETS_BYTES)));
  typedef float half __attribute__((vector_size(MEMNETS_BYTES / 2)));
  typedef int32_t whole;
  typedef int32_t wholes __attribute__((vector_size(MEMNETS_BYTES)));
  static constexpr int bits = 23, bias = 127;
  // Added and subtracted again, it rounds a number to the nearest whole one.
  static constexpr float rounder = 12582912.0f;
  // ln 2 in two parts; a product of the first part with a small whole number is exact.
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440054690583e-4f;
  static constexpr float least = -104.0f, most = 89.0f;
  static constexpr int exp_terms = 7, log_terms = 5;
};

template <>
struct Types<double> {
  typedef double vector __attribute__((vector_size(MEMNETS_BYTES)));
  typedef double half __attribute__((vector_size(MEMNETS_BYTES / 2)));
  typedef int64_t whole;
  typedef int64_t wholes __attribute__((vector_size(MEMNETS_BYTES)));
  static constexpr int bits = 52, bias = 1023;
  static constexpr double rounder = 6755399441055744.0;
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
  static constexpr double least = -746.0, most = 710.0;
  static constexpr int exp_terms = 13, log_terms = 11;
};

template <typename scalar>
using Vector = typename Types<scalar>::vector;

template <typename scalar>
constexpr int64_t lanes = MEMNETS_BYTES / sizeof(scalar);

// A row of n numbers, padded to whole vectors.
template <typename scalar>
constexpr int64_t padded(int64_t n) {
  return (n + lanes<scalar> - 1) / lanes<scalar> * lanes<scalar>;
}

template <typename scalar>
MEMNETS_INLINE Vector<scalar> load(const scalar* from) {
  Vector<scalar> value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

template <typename scalar>
MEMNETS_INLINE void store(scalar* to, Vector<scalar> value) {
  std::memcpy(to, &value, sizeof(value));
}

template <typename scalar>
MEMNETS_INLINE Vector<scalar> all(scalar number) {
  return Vector<scalar>{} + number;
}

namespace detail {

// All lanes as one: of the halves of a vector, then of the halves of those.
template <typename scalar, int64_t count, typename Join>
MEMNETS_INLINE scalar fold(const scalar* numbers, Join join) {
  if constexpr (count == 1) {
    return numbers[0];
  } else {
    typedef scalar part __attribute__((vector_size(count / 2 * sizeof(scalar))));
    part low, high;
    std::memcpy(&low, numbers, sizeof(part));
    std::memcpy(&high, numbers + count / 2, sizeof(part));
    const part joined = join(low, high);
    scalar rest[count / 2];
    std::memcpy(rest, &joined, sizeof(part));
    return fold<scalar, count / 2>(rest, join);
  }
}

}  // namespace detail

// While it lives, numbers below the normal ones count as 0 in this thread, if that is `wanted`. A
// processor may take a hundred times as long for each, and to most memories they mean nothing. Not
// so where a power of weights is taken: the quotient of two of them may be near 1.
class NormalNumbers {
 public:
  NormalNumbers(const NormalNumbers&) = delete;
  NormalNumbers& operator=(const NormalNumbers&) = delete;
#if defined(__SSE2__)
  explicit NormalNumbers(bool wanted) : before(_mm_getcsr()) {
    if (wanted) _mm_setcsr(before | 0x8040);
  }
  ~NormalNumbers() { _mm_setcsr(before); }

 private:
  const unsigned before;
#else
  explicit NormalNumbers(bool) {}
  ~NormalNumbers() {}
#endif
};

// Sum of the lanes of a vector.
template <typename scalar>
MEMNETS_INLINE scalar sum(Vector<scalar> value) {
  scalar numbers[lanes<scalar>];
  std::memcpy(numbers, &value, sizeof(value));
  return detail::fold<scalar, lanes<scalar>>(numbers, [](auto a, auto b) { return a + b; });
}

namespace detail {

// Lanes of two vectors, each in groups of `group` lanes: the first half of each group of one, then
// of the other; with `upper`, the second halves.
template <typename scalar, int64_t group, bool upper, std::size_t... k>
MEMNETS_INLINE Vector<scalar> halves(
    Vector<scalar> one, Vector<scalar> other, std::index_sequence<k...>) {
  constexpr int64_t half = group / 2, groups = lanes<scalar> / group;
#define MEMNETS_LANE                                                              \
  ((int64_t(k) / half % groups) * group + int64_t(k) % half + (upper ? half : 0) + \
   (int64_t(k) / half < groups ? 0 : lanes<scalar>))
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(one, other, MEMNETS_LANE...);
#else
  const typename Types<scalar>::wholes chosen = {MEMNETS_LANE...};
  return __builtin_shuffle(one, other, chosen);
#endif
#undef MEMNETS_LANE
}

template <typename scalar, int64_t group, int count>
MEMNETS_INLINE Vector<scalar> fold(const Vector<scalar>* vectors) {
  if constexpr (group == 1) {
    return vectors[0];
  } else {
    constexpr auto every = std::make_index_sequence<lanes<scalar>>();
    constexpr int rest = (count + 1) / 2;
    Vector<scalar> folded[rest];
    for (int k = 0; k < rest; k++) {
      const Vector<scalar> one = vectors[2 * k], other = vectors[count > 1 ? 2 * k + 1 : 0];
      folded[k] = halves<scalar, group, false>(one, other, every) +
                  halves<scalar, group, true>(one, other, every);
    }
    return fold<scalar, group / 2, rest>(folded);
  }
}

}  // namespace detail

// Sums of the lanes of several vectors, 1, 2 or 4: with fewer instructions than one by one.
template <typename scalar, int count>
MEMNETS_INLINE void sums(const Vector<scalar> (&vectors)[count], scalar* to) {
  static_assert(count == 1 || count == 2 || count == 4, "vectors are folded in pairs");
  static_assert(lanes<scalar> >= 2, "a vector has two lanes");
  const Vector<scalar> total = detail::fold<scalar, lanes<scalar>, count>(vectors);
  if constexpr (count > lanes<scalar>) {
    for (int k = 0; k < count; k++) to[k] = sum<scalar>(vectors[k]);
  } else {
    std::memcpy(to, &total, count * sizeof(scalar));
  }
}

// Greatest lane of a vector; lanes of NaN may be passed over.
template <typename scalar>
MEMNETS_INLINE scalar greatest(Vector<scalar> value) {
  scalar numbers[lanes<scalar>];
  std::memcpy(numbers, &value, sizeof(value));
  return detail::fold<scalar, lanes<scalar>>(numbers, [](auto a, auto b) { return a > b ? a : b; });
}

namespace detail {

template <typename scalar>
struct Reduced {
  Vector<scalar> rest;                      // exp(r) - 1, with x = n ln 2 + r
  typename Types<scalar>::wholes exponent;  // n
};

template <typename scalar>
MEMNETS_INLINE Reduced<scalar> reduce(Vector<scalar> x) {
  typedef Types<scalar> types;
  // Comparisons with NaN are false, so that NaN stays.
  x = x < types::least ? all(types::least) : x;
  x = x > types::most ? all(types::most) : x;
  Vector<scalar> n = (x * scalar(1.442695040888963407359924681) + types::rounder) - types::rounder;
  Vector<scalar> r = x - n * types::ln2_high;
  r = r - n * types::ln2_low;
  // The series of exp(r) - 1, from its smallest term: r is at most ln 2 / 2.
  Vector<scalar> sum = all(scalar(1));
#pragma GCC unroll 16
  for (int term = types::exp_terms; term > 1; term--) sum = 1 + r * sum * scalar(1.0 / term);
  return {r * sum, __builtin_convertvector(n, typename types::wholes)};
}

// 2^n for n within the range of normal numbers.
template <typename scalar>
MEMNETS_INLINE Vector<scalar> power_of_two(typename Types<scalar>::wholes n) {
  typename Types<scalar>::wholes bits = (n + Types<scalar>::bias) << Types<scalar>::bits;
  Vector<scalar> value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace detail

// e^x. Results below the normal numbers are as exact as those numbers are.
template <typename scalar>
MEMNETS_INLINE Vector<scalar> exponential(Vector<scalar> x) {
  auto [rest, n] = detail::reduce<scalar>(x);
  // Two factors: a single one would leave the range at its ends.
  auto half = n >> 1;
  return (1 + rest) * detail::power_of_two<scalar>(half) * detail::power_of_two<scalar>(n - half);
}

// ln x of a normal number, of infinity or of NaN.
template <typename scalar>
MEMNETS_INLINE Vector<scalar> logarithm(Vector<scalar> x) {
  typedef Types<scalar> types;
  typename types::wholes bits;
  std::memcpy(&bits, &x, sizeof(bits));
  // x = 2^n m with m between the root of 1/2 and the root of 2.
  typename types::wholes root;
  const Vector<scalar> start = all(scalar(0.70710678118654752440));
  std::memcpy(&root, &start, sizeof(root));
  typename types::wholes n = (bits - root) >> types::bits;
  typename types::wholes mantissa = bits - (n << types::bits);
  Vector<scalar> m;
  std::memcpy(&m, &mantissa, sizeof(m));
  // ln m = 2 artanh s = 2 (s + s^3 / 3 + ...).
  Vector<scalar> s = (m - 1) / (m + 1), square = s * s;
  Vector<scalar> sum = all(scalar(1.0 / (2 * types::log_terms - 1)));
#pragma GCC unroll 16
  for (int term = types::log_terms - 1; term > 0; term--) {
    sum = sum * square + scalar(1.0 / (2 * term - 1));
  }
  Vector<scalar> count = __builtin_convertvector(n, Vector<scalar>);
  Vector<scalar> result = count * types::ln2_high + (2 * s * sum + count * types::ln2_low);
  return x < std::numeric_limits<scalar>::infinity() ? result : x;
}

// 1 / sqrt x.
template <typename scalar>
MEMNETS_INLINE Vector<scalar> inverse_root(Vector<scalar> x) {
  scalar numbers[lanes<scalar>];
  store(numbers, x);
  for (int64_t i = 0; i < lanes<scalar>; i++) numbers[i] = 1 / std::sqrt(numbers[i]);
  return load(numbers);
}

// 1 / (1 + e^-x).
template <typename scalar>
MEMNETS_INLINE Vector<scalar> sigmoid(Vector<scalar> x) {
  return 1 / (1 + exponential<scalar>(-x));
}

// tanh x, with its relative precision near 0.
template <typename scalar>
MEMNETS_INLINE Vector<scalar> hyperbolic_tangent(Vector<scalar> x) {
  // Beyond 20, tanh is 1 in all digits; e^(2x) would leave the range.
  x = x > 20 ? all(scalar(20)) : x;
  x = x < -20 ? all(scalar(-20)) : x;
  auto [rest, n] = detail::reduce<scalar>(2 * x);
  Vector<scalar> power = detail::power_of_two<scalar>(n);
  Vector<scalar> grown = power * rest + (power - 1);  // e^(2x) - 1
  return grown / (grown + 2);
}

// Apply a function of a vector to n numbers, of which the last need not fill one.
template <typename scalar, typename Function>
MEMNETS_INLINE void map(int64_t n, const scalar* from, scalar* to, Function function) {
  int64_t i = 0;
  for (; i + lanes<scalar> <= n; i += lanes<scalar>) store(to + i, function(load(from + i)));
  if (i < n) {
    scalar rest[lanes<scalar>] = {};
    std::memcpy(rest, from + i, (n - i) * sizeof(scalar));
    store(rest, function(load(rest)));
    std::memcpy(to + i, rest, (n - i) * sizeof(scalar));
  }
}

// Sum of the products of two rows of n numbers.
template <typename scalar>
MEMNETS_INLINE scalar dot(int64_t n, const scalar* one, const scalar* other) {
  Vector<scalar> total = {};
  int64_t i = 0;
  for (; i + lanes<scalar> <= n; i += lanes<scalar>) total += load(one + i) * load(other + i);
  scalar result = sum<scalar>(total);
  for (; i < n; i++) result += one[i] * other[i];
  return result;
}

// What makes the weights of a softmax from its numbers: exp(number - highest) share.
template <typename scalar>
struct Softmax {
  scalar highest, share;
};

// Softmax of n numbers in place. The row is padded: what stands behind the numbers becomes 0.
template <typename scalar>
MEMNETS_INLINE Softmax<scalar> softmax(int64_t n, scalar* row) {
  const int64_t end = padded<scalar>(n);
  for (int64_t i = n; i < end; i++) row[i] = -std::numeric_limits<scalar>::infinity();
  Vector<scalar> most = load(row), total = {};
  for (int64_t i = lanes<scalar>; i < end; i += lanes<scalar>) {
    Vector<scalar> now = load(row + i);
    most = now > most ? now : most;
  }
  const scalar highest = greatest<scalar>(most);
  for (int64_t i = 0; i < end; i += lanes<scalar>) {
    Vector<scalar> now = exponential<scalar>(load(row + i) - highest);
    total += now;
    store(row + i, now);
  }
  const scalar share = 1 / sum<scalar>(total);
  for (int64_t i = 0; i < end; i += lanes<scalar>) store(row + i, load(row + i) * share);
  return {highest, share};
}

// Gradient of a softmax's input, in place of the gradient of its output; padded rows.
template <typename scalar>
MEMNETS_INLINE void softmax_gradient(int64_t n, scalar* gradient, const scalar* weights) {
  const int64_t end = padded<scalar>(n);
  Vector<scalar> total = {};
  for (int64_t i = 0; i < end; i += lanes<scalar>) total += load(gradient + i) * load(weights + i);
  const scalar mean = sum<scalar>(total);
  for (int64_t i = 0; i < end; i += lanes<scalar>) {
    store(gradient + i, load(weights + i) * (load(gradient + i) - mean));
  }
}

// ln(1 + e^x): above 20, where PyTorch does so too, it is x.
template <typename scalar>
MEMNETS_INLINE Vector<scalar> softplus(Vector<scalar> x) {
  const Vector<scalar> power = exponential<scalar>(x > 20 ? all(scalar(20)) : x);
  // 1 + e^x has lost the last digits of a small e^x; the factor puts them back.
  const Vector<scalar> one_more = 1 + power;
  const Vector<scalar> result = logarithm<scalar>(one_more) * (power / (one_more - 1));
  return x > 20 ? x : one_more == 1 ? power : result;
}

// Calls `body(count, i)` for blocks of four vectors, then of one, which cover a padded row. `count`
// is a constant, so that a block can stay in the registers of the processor.
template <typename scalar, typename Body>
MEMNETS_INLINE void blocks(int64_t stride, Body body) {
  int64_t i = 0;
  for (; i + 4 * lanes<scalar> <= stride; i += 4 * lanes<scalar>) {
    body(std::integral_constant<int, 4>(), i);
  }
  for (; i < stride; i += lanes<scalar>) body(std::integral_constant<int, 1>(), i);
}

}  // namespace memnets
