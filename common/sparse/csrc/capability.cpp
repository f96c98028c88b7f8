// Choice of the instruction set, once per process.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace edgewise {
namespace {
int level() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const int chosen = [] {
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw");
    const int best = avx512 ? 2 : avx2 ? 1 : 0;
    const char* wish = std::getenv("EDGEWISE_CPU_CAPABILITY");
    if (!wish) return best;
    const int cap = !std::strcmp(wish, "default") ? 0 : !std::strcmp(wish, "avx2") ? 1 : 2;
    return cap < best ? cap : best;
  }();
  return chosen;
#else
  return 0;
#endif
}
}  // namespace

#if defined(__x86_64__) && defined(__GNUC__)
#define EDGEWISE_PICK(name) (level() == 2 ? avx512::name : level() == 1 ? avx2::name : baseline::name)
#else
#define EDGEWISE_PICK(name) baseline::name
#endif

#define EDGEWISE_KERNELS(T, I, name)    \
  template <>                           \
  const Kernels<T, I>& kernels<T, I>() { \
    return EDGEWISE_PICK(name);         \
  }
EDGEWISE_KERNELS(float, int32_t, f32_i32)
EDGEWISE_KERNELS(float, int64_t, f32_i64)
EDGEWISE_KERNELS(double, int32_t, f64_i32)
EDGEWISE_KERNELS(double, int64_t, f64_i64)
#undef EDGEWISE_KERNELS

int64_t threads_used() {
  const int64_t asked = torch::stable::get_num_threads();
  std::vector<char> seen(asked, 0);
  torch::stable::parallel_for(0, asked, 1, [&](int64_t, int64_t) {
    uint32_t thread = 0;
    TORCH_ERROR_CODE_CHECK(torch_get_thread_idx(&thread));
    seen[thread] = 1;
  });
  return std::count(seen.begin(), seen.end(), 1);
}

const char* cpu_capability() {
  return level() == 2 ? "avx512" : level() == 1 ? "avx2" : "default";
}

}  // namespace edgewise
