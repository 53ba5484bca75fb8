// Many steps of a linear memory, forward and backward.
//
// A step decays the matrix S [K, V] of a head, then writes n times, then reads, as
// memnets.memories.scan defines it:
//
//   S <- Diag(a) S;   u = w - S^T e,  S <- S + k u^T   for each write;   r = S^T q
//
// The matrix of a head stays in the processor's cache while all steps pass over it, one after the
// other. The backward pass starts from matrices that were kept, makes those of a few writes again,
// and goes through these in the opposite order.

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "buffers.h"
#include "common.h"

namespace memnets {
namespace {

using at::Tensor;

// The matrix before each write whose number is a multiple of this is kept for the backward pass.
constexpr int64_t STRETCH = 32;

// Where the numbers of each step lie, or of each write: [B, H, T, ...] or [B, H, T, n, ...], the last
// size without gaps.
template <typename scalar>
struct Numbers {
  scalar* place = nullptr;
  int64_t sequence = 0, head = 0, step = 0, write = 0;

  Numbers() = default;
  explicit Numbers(const std::optional<Tensor>& tensor) {
    if (!tensor) return;
    place = const_cast<scalar*>(tensor->const_data_ptr<std::remove_const_t<scalar>>());
    sequence = tensor->stride(0);
    head = tensor->stride(1);
    step = tensor->stride(2);
    if (tensor->dim() == 5) write = tensor->stride(3);
  }

  // Those of one head.
  Numbers of(int64_t b, int64_t h) const {
    Numbers own = *this;
    if (place) own.place += b * sequence + h * head;
    return own;
  }
  scalar* at(int64_t t, int64_t j = 0) const { return place + t * step + j * write; }
  explicit operator bool() const { return place != nullptr; }
};

// Which gradients are wanted: of queries, keys, values, memory, erase and log_decay.
using Wanted = std::array<bool, 6>;

struct Sizes {
  int64_t batch, heads, steps, writes, keys, values, decays;

  int64_t all() const { return steps * writes; }  // writes of all steps
  int64_t stretches() const { return (all() + STRETCH - 1) / STRETCH; }
};

Sizes sizes_of(const Tensor& keys, const Tensor& values, const std::optional<Tensor>& log_decay) {
  return {keys.size(0), keys.size(1), keys.size(2), keys.size(3), keys.size(4), values.size(4),
          log_decay ? log_decay->size(3) : 0};
}

// A tensor that an operator reads: of the type of the queries, of this shape, on the CPU.
void check(const std::optional<Tensor>& given, const Tensor& queries, at::IntArrayRef shape,
           const char* name) {
  TORCH_CHECK(!given || given->sizes() == shape, name, " must be ", shape, "; got ",
              given->sizes());
  TORCH_CHECK(!given || (given->scalar_type() == queries.scalar_type() && given->device().is_cpu()),
              name, " must be of the type of the queries, on the CPU");
}

// All that forward and backward read alike.
void check_all(const Tensor& queries, const Tensor& keys, const Tensor& values,
               const std::optional<Tensor>& erase, const std::optional<Tensor>& log_decay) {
  TORCH_CHECK(keys.dim() == 5 && values.dim() == 5 && (!log_decay || log_decay->dim() == 4) &&
                  (queries.scalar_type() == at::kFloat || queries.scalar_type() == at::kDouble),
              "keys and values must be [B, heads, T, writes, width], of float32 or float64");
  const Sizes sizes = sizes_of(keys, values, log_decay);
  const int64_t B = sizes.batch, H = sizes.heads, T = sizes.steps, K = sizes.keys;
  TORCH_CHECK(!log_decay || sizes.decays == 1 || sizes.decays == K, "decays must be 1 or ", K,
              "; got ", sizes.decays);
  check(queries, queries, {B, H, T, K}, "queries");
  check(keys, queries, keys.sizes(), "keys");
  check(values, queries, {B, H, T, sizes.writes, sizes.values}, "values");
  check(erase, queries, keys.sizes(), "what is erased");
  check(log_decay, queries, {B, H, T, sizes.decays}, "decays");
}

// Rows of numbers, each padded with zeros to whole vectors.
template <typename scalar>
class Room {
 public:
  Room(int64_t rows, int64_t width)
      : stride(padded<scalar>(width)), vectors(rows * stride / lanes<scalar>) {}

  scalar* row(int64_t i = 0) { return reinterpret_cast<scalar*>(vectors.data()) + i * stride; }

  const int64_t stride;

 private:
  std::vector<Vector<scalar>> vectors;
};

// The decays of a step, one for each of K entries.
template <typename scalar>
void decays_of(const Sizes& sizes, const scalar* logs, scalar* to) {
  if (sizes.decays == sizes.keys) {
    map(sizes.keys, logs, to, [](Vector<scalar> x) { return exponential<scalar>(x); });
  } else {
    std::fill_n(to, sizes.keys, exponential<scalar>(all(logs[0]))[0]);
  }
}

// Calls `body(count, i)` for blocks of four, two or one vectors, which cover a padded row.
template <typename scalar, typename Body>
MEMNETS_INLINE void columns(int64_t stride, Body body) {
  constexpr int64_t L = lanes<scalar>;
  int64_t i = 0;
  for (; i + 4 * L <= stride; i += 4 * L) body(std::integral_constant<int, 4>(), i);
  for (; i + 2 * L <= stride; i += 2 * L) body(std::integral_constant<int, 2>(), i);
  for (; i < stride; i += L) body(std::integral_constant<int, 1>(), i);
}

// Calls a function with constants in place of conditions, so that loops within it have none.
template <typename Function>
MEMNETS_INLINE void with(Function function) { function(); }
template <typename Function, typename... Rest>
MEMNETS_INLINE void with(Function function, bool one, Rest... rest) {
  if (one) {
    with([&](auto... more) { function(std::true_type(), more...); }, rest...);
  } else {
    with([&](auto... more) { function(std::false_type(), more...); }, rest...);
  }
}

// Numbers of a write, or of a step at its first or last write; null where there are none.
template <typename scalar>
struct Write {
  const scalar *key, *erase, *query, *decay;
};

// A write on some columns of a matrix [K, V], `count` vectors wide; then the read, if it has a query.
template <typename scalar, int count>
void write_columns(const Write<scalar>& now, int64_t K, scalar* S, int64_t stride, scalar* added,
                   scalar* read) {
  constexpr int64_t L = lanes<scalar>;
  Vector<scalar> u[count];
  for (int c = 0; c < count; c++) u[c] = load(added + c * L);
  if (now.erase) {
    with([&](auto decays) {
      // Of even and of odd rows apart: a sum waits for its last term.
      Vector<scalar> found[2][count] = {};
      auto find = [&](int64_t k, Vector<scalar>(&sum)[count]) {
        scalar* row = S + k * stride;
        for (int c = 0; c < count; c++) {
          Vector<scalar> x = load(row + c * L);
          if constexpr (decays) {
            x *= now.decay[k];
            store(row + c * L, x);
          }
          sum[c] += now.erase[k] * x;
        }
      };
      int64_t k = 0;
      for (; k + 2 <= K; k += 2) {
        find(k, found[0]);
        find(k + 1, found[1]);
      }
      if (k < K) find(k, found[0]);
      for (int c = 0; c < count; c++) {
        u[c] -= found[0][c] + found[1][c];
        store(added + c * L, u[c]);
      }
    }, now.decay != nullptr);
  }
  with([&](auto decays, auto reads) {
    Vector<scalar> sum[count] = {};
    for (int64_t k = 0; k < K; k++) {
      scalar* row = S + k * stride;
      for (int c = 0; c < count; c++) {
        Vector<scalar> x = load(row + c * L);
        if constexpr (decays) x *= now.decay[k];
        x += now.key[k] * u[c];
        store(row + c * L, x);
        if constexpr (reads) sum[c] += now.query[k] * x;
      }
    }
    if constexpr (reads) {
      for (int c = 0; c < count; c++) store(read + c * L, sum[c]);
    }
  }, now.decay && !now.erase, now.query != nullptr);
}

// Room for the steps of a head, used for one after the other.
template <typename scalar>
struct Forward {
  const Sizes sizes;
  Room<scalar> matrix, decay, u, r;

  explicit Forward(const Sizes& sizes)
      : sizes(sizes), matrix(sizes.keys, sizes.values), decay(1, sizes.keys), u(1, sizes.values),
        r(1, sizes.values) {}

  // All steps. `added` and `kept` have no place where nothing is recorded.
  void run(Numbers<const scalar> queries, Numbers<const scalar> keys, Numbers<const scalar> values,
           Numbers<const scalar> erase, Numbers<const scalar> logs, const scalar* memory,
           Numbers<scalar> read, scalar* last, Numbers<scalar> added, scalar* kept) {
    const int64_t K = sizes.keys, V = sizes.values, n = sizes.writes;
    scalar* const S = matrix.row();
    for (int64_t k = 0; k < K; k++) std::copy_n(memory + k * V, V, matrix.row(k));
    for (int64_t s = 0, t = 0; t < sizes.steps; t++) {
      if (logs) decays_of(sizes, logs.at(t), decay.row());
      for (int64_t j = 0; j < n; j++, s++) {
        if (kept && s % STRETCH == 0) kept = std::copy_n(S, K * matrix.stride, kept);
        std::copy_n(values.at(t, j), V, u.row());
        const Write<scalar> now = {keys.at(t, j), erase ? erase.at(t, j) : nullptr,
                                   j == n - 1 ? queries.at(t) : nullptr,
                                   logs && j == 0 ? decay.row() : nullptr};
        columns<scalar>(matrix.stride, [&](auto count, int64_t i) {
          write_columns<scalar, count>(now, K, S + i, matrix.stride, u.row() + i, r.row() + i);
        });
        if (added) std::copy_n(u.row(), V, added.at(t, j));
      }
      std::copy_n(r.row(), V, read.at(t));
    }
    for (int64_t k = 0; k < K; k++) std::copy_n(matrix.row(k), V, last + k * V);
  }
};

// Gradients of one head; those that nobody wants have no place.
template <typename scalar>
struct Gradients {
  Numbers<scalar> queries, keys, values, erase, logs;
  scalar* memory;
};

// A write in the backward pass, all rows padded. Of V numbers: what it added and the gradient of
// that, and the gradient of the read. Of K numbers: the results.
template <typename scalar>
struct Back {
  const scalar *key, *erase, *query, *decay, *added, *of_added, *of_read;
  scalar *of_query, *of_key, *of_erase, *of_log;
};

// Adds the gradient of a read to that of S^T, [V, K], and gives the gradient of what was added.
template <typename scalar>
void back_read(const Back<scalar>& now, int64_t V, scalar* after, int64_t stride, scalar* of_added) {
  constexpr int64_t L = lanes<scalar>;
  with([&](auto reads) {
    auto rows = [&](auto count, int64_t v) {
      Vector<scalar> total[count] = {};
      for (int64_t i = 0; i < stride; i += L) {
        const Vector<scalar> key = load(now.key + i);
        for (int c = 0; c < count; c++) {
          scalar* place = after + (v + c) * stride + i;
          Vector<scalar> x = load(place);
          if constexpr (reads) {
            x += now.of_read[v + c] * load(now.query + i);
            store(place, x);
          }
          total[c] += x * key;
        }
      }
      sums<scalar, count>(total, of_added + v);
    };
    int64_t v = 0;
    for (; v + 4 <= V; v += 4) rows(std::integral_constant<int, 4>(), v);
    for (; v < V; v++) rows(std::integral_constant<int, 1>(), v);
  }, now.query != nullptr);
}

// Goes back through a write, for the rows of S that are `count` vectors from i on: `before`, [V, K],
// is S^T before the write and its decay; `after`, the gradient of S^T behind them, becomes that
// before them.
template <typename scalar, int count>
void back_rows(const Back<scalar>& now, int64_t V, int64_t i, const scalar* before, scalar* after,
               int64_t stride) {
  constexpr int64_t L = lanes<scalar>;
  with([&](auto decays, auto erases, auto reads) {
    Vector<scalar> of_query[count] = {}, of_key[count] = {}, of_erase[count] = {};
    Vector<scalar> of_log[count] = {}, decay[count] = {}, erase[count] = {};
    for (int c = 0; c < count; c++) {
      if constexpr (decays) decay[c] = load(now.decay + i + c * L);
      if constexpr (erases) erase[c] = load(now.erase + i + c * L);
    }
    for (int64_t v = 0; v < V; v++) {
      for (int c = 0; c < count; c++) {
        const int64_t at = v * stride + i + c * L;
        Vector<scalar> x = load(after + at);
        of_key[c] += now.added[v] * x;
        if constexpr (decays || erases || reads) {
          const Vector<scalar> old = load(before + at);
          Vector<scalar> left = old;
          if constexpr (decays) left *= decay[c];
          if constexpr (reads) of_query[c] += now.of_read[v] * left;
          if constexpr (erases) {
            of_erase[c] -= now.of_added[v] * left;
            x -= now.of_added[v] * erase[c];
          }
          if constexpr (decays) {
            x *= decay[c];
            of_log[c] += x * old;
          }
          if constexpr (decays || erases) store(after + at, x);
        }
      }
    }
    for (int c = 0; c < count; c++) {
      const int64_t at = i + c * L;
      store(now.of_key + at, of_key[c]);
      if constexpr (reads) store(now.of_query + at, of_query[c]);
      if constexpr (erases) store(now.of_erase + at, of_erase[c]);
      if constexpr (decays) store(now.of_log + at, of_log[c]);
    }
  }, now.decay != nullptr, now.erase != nullptr, now.query != nullptr);
}

// Room for the backward pass of a head, used for one after the other. All matrices are turned round,
// [V, K], so that most sums are sums of rows.
template <typename scalar>
struct Backward {
  const Sizes sizes;
  Room<scalar> gradient, states, decays, of_keys, of_values;

  explicit Backward(const Sizes& sizes)
      : sizes(sizes), gradient(sizes.values, sizes.keys),
        states(STRETCH * sizes.values, sizes.keys), decays(STRETCH, sizes.keys),
        of_keys(7, sizes.keys), of_values(3, sizes.values) {}

  // Makes the matrices before the writes from `low` to `high` again, and the decays of their steps.
  void again(int64_t low, int64_t high, Numbers<const scalar> keys, Numbers<const scalar> added,
             Numbers<const scalar> logs, const scalar* kept) {
    const int64_t K = sizes.keys, V = sizes.values, n = sizes.writes, wide = padded<scalar>(V);
    const int64_t stride = states.stride;
    scalar *const key = of_keys.row(0), *const u = of_values.row(0);
    for (int64_t v = 0; v < V; v++) {
      scalar* row = states.row(v);
      for (int64_t k = 0; k < K; k++) row[k] = kept[k * wide + v];
    }
    for (int64_t s = low; s < high; s++) {
      const int64_t t = s / n, j = s % n;
      scalar* const decay = decays.row(s - low);
      const bool fades = logs && j == 0;
      if (fades) decays_of(sizes, logs.at(t), decay);
      if (s + 1 == high) break;
      std::copy_n(keys.at(t, j), K, key);
      std::copy_n(added.at(t, j), V, u);
      const scalar* now = states.row((s - low) * V);
      scalar* next = states.row((s + 1 - low) * V);
      with([&](auto fading) {
        for (int64_t v = 0; v < V; v++) {
          for (int64_t i = 0; i < stride; i += lanes<scalar>) {
            Vector<scalar> x = load(now + v * stride + i);
            if constexpr (fading) x *= load(decay + i);
            store(next + v * stride + i, x + u[v] * load(key + i));
          }
        }
      }, fades);
    }
  }

  // All steps. `of_read` and `of_last` have no place where these gradients are 0.
  void run(Numbers<const scalar> queries, Numbers<const scalar> keys, Numbers<const scalar> added,
           Numbers<const scalar> erase, Numbers<const scalar> logs, const scalar* kept,
           Numbers<const scalar> of_read, const scalar* of_last, const Gradients<scalar>& to) {
    const int64_t K = sizes.keys, V = sizes.values, n = sizes.writes;
    const int64_t stride = gradient.stride, size = K * padded<scalar>(V);
    scalar* const D = gradient.row();
    scalar *const key = of_keys.row(0), *const old = of_keys.row(1), *const query = of_keys.row(2);
    scalar *const u = of_values.row(0), *const of_u = of_values.row(1);
    scalar* const of_r = of_values.row(2);
    std::fill_n(D, V * stride, scalar(0));
    for (int64_t v = 0; of_last && v < V; v++) {
      for (int64_t k = 0; k < K; k++) D[v * stride + k] = of_last[k * V + v];
    }
    for (int64_t part = sizes.stretches() - 1; part >= 0; part--) {
      const int64_t low = part * STRETCH, high = std::min(low + STRETCH, sizes.all());
      again(low, high, keys, added, logs, kept + part * size);
      for (int64_t s = high - 1; s >= low; s--) {
        const int64_t t = s / n, j = s % n;
        const bool reads = of_read && j == n - 1, fades = logs && j == 0;
        std::copy_n(keys.at(t, j), K, key);
        std::copy_n(added.at(t, j), V, u);
        if (erase) std::copy_n(erase.at(t, j), K, old);
        if (reads) {
          std::copy_n(queries.at(t), K, query);
          std::copy_n(of_read.at(t), V, of_r);
        }
        const Back<scalar> now = {
            key, erase ? old : nullptr, reads ? query : nullptr,
            fades ? decays.row(s - low) : nullptr, u, of_u, of_r,
            of_keys.row(3), of_keys.row(4), of_keys.row(5), of_keys.row(6)};
        back_read(now, V, D, stride, of_u);
        const scalar* before = states.row((s - low) * V);
        columns<scalar>(stride, [&](auto count, int64_t i) {
          back_rows<scalar, count>(now, V, i, before, D, stride);
        });
        if (to.values) std::copy_n(of_u, V, to.values.at(t, j));
        if (to.keys) std::copy_n(now.of_key, K, to.keys.at(t, j));
        if (to.erase) std::copy_n(now.of_erase, K, to.erase.at(t, j));
        if (reads && to.queries) {
          // A read is of the memory behind the write.
          const scalar more = dot(V, of_r, u);
          scalar* place = to.queries.at(t);
          for (int64_t k = 0; k < K; k++) place[k] = now.of_query[k] + more * key[k];
        }
        if (fades && to.logs) {
          scalar* place = to.logs.at(t);
          if (sizes.decays == K) {
            std::copy_n(now.of_log, K, place);
          } else {
            place[0] = 0;
            for (int64_t k = 0; k < K; k++) place[0] += now.of_log[k];
          }
        }
      }
    }
    for (int64_t v = 0; to.memory && v < V; v++) {
      for (int64_t k = 0; k < K; k++) to.memory[k * V + v] = D[v * stride + k];
    }
  }
};

// Calls `run(room, b, h)` for all heads of all sequences, in several threads, each with a room.
template <typename Room, typename Run>
void heads(const Sizes& sizes, Run run) {
  at::parallel_for(0, sizes.batch * sizes.heads, 1, [&](int64_t low, int64_t high) {
    const NormalNumbers normal(true);
    Room room(sizes);
    for (int64_t one = low; one < high; one++) run(room, one / sizes.heads, one % sizes.heads);
  });
}

// Steps before heads, [B, T, H, ...], as those who ask for many steps have their numbers; seen as
// [B, H, T, ...].
Tensor by_steps(const Sizes& sizes, std::vector<int64_t> last, const at::TensorOptions& options) {
  std::vector<int64_t> shape = {sizes.batch, sizes.steps, sizes.heads};
  shape.insert(shape.end(), last.begin(), last.end());
  return at::empty(shape, options).transpose(1, 2);
}

template <typename scalar>
std::vector<Tensor> forward_of(const Tensor& queries, const Tensor& keys, const Tensor& values,
                               const Tensor& memory, const std::optional<Tensor>& erase,
                               const std::optional<Tensor>& log_decay, bool recorded) {
  const Sizes sizes = sizes_of(keys, values, log_decay);
  const auto options = queries.options();
  const int64_t H = sizes.heads, size = sizes.keys * padded<scalar>(sizes.values);
  const int64_t matrix = sizes.keys * sizes.values;
  const Tensor read = by_steps(sizes, {sizes.values}, options), last = at::empty_like(memory);
  std::optional<Tensor> added, kept;
  if (recorded) {
    kept = Buffers::empty({sizes.batch, H, sizes.stretches(), size}, options);
    // Without an erase, what is added is what was given.
    if (erase) added = by_steps(sizes, {sizes.writes, sizes.values}, options);
  }
  const Numbers<const scalar> q(queries), k(keys), w(values), e(erase), logs(log_decay);
  const Numbers<scalar> r(read), u(added);
  const scalar* from = memory.const_data_ptr<scalar>();
  scalar* to = last.mutable_data_ptr<scalar>();
  scalar* keep = kept ? kept->mutable_data_ptr<scalar>() : nullptr;
  heads<Forward<scalar>>(sizes, [&](auto& room, int64_t b, int64_t h) {
    const int64_t one = b * H + h;
    room.run(q.of(b, h), k.of(b, h), w.of(b, h), e.of(b, h), logs.of(b, h), from + one * matrix,
             r.of(b, h), to + one * matrix, u.of(b, h),
             keep ? keep + one * sizes.stretches() * size : nullptr);
  });
  std::vector<Tensor> result = {read, last};
  if (recorded) result.push_back(*kept);
  if (added) result.push_back(*added);
  return result;
}

template <typename scalar>
std::vector<Tensor> backward_of(const Tensor& queries, const Tensor& keys, const Tensor& added,
                                const std::optional<Tensor>& erase,
                                const std::optional<Tensor>& log_decay, const Tensor& kept,
                                const std::optional<Tensor>& of_read,
                                const std::optional<Tensor>& of_last,
                                const Wanted& wanted) {
  const Sizes sizes = sizes_of(keys, added, log_decay);
  const auto options = queries.options();
  const int64_t H = sizes.heads, size = sizes.keys * padded<scalar>(sizes.values);
  const int64_t matrix = sizes.keys * sizes.values;
  std::vector<Tensor> found;
  auto made = [&](const std::optional<Tensor>& like) {
    const bool here = like && wanted[found.size()];
    found.push_back(here ? at::empty_like(*like) : at::empty({0}, options));
    return here ? std::optional<Tensor>(found.back()) : std::nullopt;
  };
  Gradients<scalar> to;
  to.queries = Numbers<scalar>(made(queries));
  if (to.queries && !of_read) found[0].zero_();
  to.keys = Numbers<scalar>(made(keys));
  to.values = Numbers<scalar>(made(added));
  found.push_back(wanted[3] ? at::empty({sizes.batch, H, sizes.keys, sizes.values}, options)
                            : at::empty({0}, options));
  to.memory = wanted[3] ? found[3].mutable_data_ptr<scalar>() : nullptr;
  to.erase = Numbers<scalar>(made(erase));
  to.logs = Numbers<scalar>(made(log_decay));
  const Numbers<const scalar> q(queries), k(keys), u(added), e(erase), logs(log_decay), dr(of_read);
  const scalar* keep = kept.const_data_ptr<scalar>();
  const scalar* from = of_last ? of_last->const_data_ptr<scalar>() : nullptr;
  heads<Backward<scalar>>(sizes, [&](auto& room, int64_t b, int64_t h) {
    const int64_t one = b * H + h;
    const Gradients<scalar> own = {to.queries.of(b, h), to.keys.of(b, h), to.values.of(b, h),
                                   to.erase.of(b, h), to.logs.of(b, h),
                                   to.memory ? to.memory + one * matrix : nullptr};
    room.run(q.of(b, h), k.of(b, h), u.of(b, h), e.of(b, h), logs.of(b, h),
             keep + one * sizes.stretches() * size, dr.of(b, h),
             from ? from + one * matrix : nullptr, own);
  });
  return found;
}

// The numbers of the last size without gaps.
Tensor dense(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  return tensor.stride(last) == 1 || tensor.size(last) == 1 ? tensor : tensor.contiguous();
}

std::optional<Tensor> dense(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(dense(*tensor)) : std::nullopt;
}

std::vector<Tensor> forward(const Tensor& queries, const Tensor& keys, const Tensor& values,
                            const Tensor& memory, const std::optional<Tensor>& erase,
                            const std::optional<Tensor>& log_decay, bool recorded) {
  check_all(queries, keys, values, erase, log_decay);
  check(memory, queries, {keys.size(0), keys.size(1), keys.size(4), values.size(4)}, "the memory");
  auto run = queries.scalar_type() == at::kFloat ? &forward_of<float> : &forward_of<double>;
  return run(dense(queries), dense(keys), dense(values), memory.contiguous(), dense(erase),
             dense(log_decay), recorded);
}

std::vector<Tensor> backward(const Tensor& queries, const Tensor& keys, const Tensor& added,
                             const std::optional<Tensor>& erase,
                             const std::optional<Tensor>& log_decay, const Tensor& kept,
                             const std::optional<Tensor>& of_read,
                             const std::optional<Tensor>& of_last, Wanted wanted) {
  check_all(queries, keys, added, erase, log_decay);
  const Sizes sizes = sizes_of(keys, added, log_decay);
  const int64_t B = sizes.batch, H = sizes.heads, K = sizes.keys, V = sizes.values;
  const int64_t row = queries.scalar_type() == at::kFloat ? padded<float>(V) : padded<double>(V);
  check(kept, queries, {B, H, sizes.stretches(), K * row}, "the matrices that a run keeps");
  TORCH_CHECK(kept.is_contiguous(), "the matrices that a run keeps must be contiguous");
  check(of_read, queries, {B, H, sizes.steps, V}, "the gradient of the reads");
  check(of_last, queries, {B, H, K, V}, "the gradient of the last memory");
  auto run = queries.scalar_type() == at::kFloat ? &backward_of<float> : &backward_of<double>;
  const std::optional<Tensor> last =
      of_last ? std::optional<Tensor>(of_last->contiguous()) : std::nullopt;
  return run(dense(queries), dense(keys), dense(added), dense(erase), dense(log_decay), kept,
             dense(of_read), last, wanted);
}

}  // namespace
}  // namespace memnets

TORCH_LIBRARY_FRAGMENT(memnets, library) {
  library.def(
      "scan(Tensor queries, Tensor keys, Tensor values, Tensor memory, Tensor? erase, "
      "Tensor? log_decay, bool recorded) -> Tensor[]");
  library.def(
      "scan_backward(Tensor queries, Tensor keys, Tensor added, Tensor? erase, "
      "Tensor? log_decay, Tensor kept, Tensor? of_read, Tensor? of_last, bool[6] wanted) "
      "-> Tensor[]");
}

TORCH_LIBRARY_IMPL(memnets, CPU, library) {
  library.impl("scan", &memnets::forward);
  library.impl("scan_backward", &memnets::backward);
}
