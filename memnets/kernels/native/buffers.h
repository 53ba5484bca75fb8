// Memory for what a run keeps for its backward pass.
//
// The system hands out memory in pages and clears each: for a large run that takes as long as the
// run. So large buffers go from run to run: a training step finds those of the step before.
#pragma once

#include <cstdlib>
#include <mutex>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace memnets {

class Buffers {
 public:
  // A tensor of any numbers. Its memory comes back to the buffers when nobody holds it any more.
  static at::Tensor empty(at::IntArrayRef sizes, const at::TensorOptions& options) {
    const size_t bytes = c10::multiply_integers(sizes) * options.dtype().itemsize();
    if (bytes < LEAST) return at::empty(sizes, options);
    const Block block = all().take((bytes + PAGE - 1) / PAGE * PAGE);
    TORCH_CHECK(block.place != nullptr, "no memory for ", bytes, " bytes that a run keeps");
    return at::from_blob(
        block.place, sizes, [block](void*) { all().give(block); }, options);
  }

 private:
  struct Block {
    void* place;
    size_t bytes;
  };

  static constexpr size_t PAGE = size_t(1) << 21;   // a large page of most processors
  static constexpr size_t LEAST = size_t(1) << 21;  // smaller ones are the allocator's
  static constexpr size_t MOST = size_t(1) << 28;   // bytes that wait for another run

  std::mutex mutex;
  std::vector<Block> waiting;  // the last that came is the last
  size_t total = 0;

  // Never destroyed: a tensor may outlive everything else.
  static Buffers& all() {
    static Buffers* const buffers = new Buffers;
    return *buffers;
  }

  Block take(size_t bytes) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      auto best = waiting.end();
      for (auto one = waiting.begin(); one != waiting.end(); one++) {
        // A much larger one would hold memory that nobody uses.
        if (one->bytes < bytes || one->bytes / 2 > bytes) continue;
        if (best == waiting.end() || one->bytes < best->bytes) best = one;
      }
      if (best != waiting.end()) {
        const Block block = *best;
        waiting.erase(best);
        total -= block.bytes;
        return block;
      }
    }
    void* place = nullptr;
    if (posix_memalign(&place, PAGE, bytes) != 0) return {nullptr, 0};
#if defined(__linux__)
    madvise(place, bytes, MADV_HUGEPAGE);
#endif
    return {place, bytes};
  }

  void give(Block block) {
    std::lock_guard<std::mutex> lock(mutex);
    waiting.push_back(block);
    total += block.bytes;
    while (total > MOST) {
      total -= waiting.front().bytes;
      std::free(waiting.front().place);
      waiting.erase(waiting.begin());
    }
  }
};

}  // namespace memnets
