// Which of the compiled loops this CPU runs.

#include <cstdlib>
#include <cstring>

#include "binary_conv.h"
#include "kernels.h"

namespace candle {
namespace {

#if defined(__x86_64__)

// Whether the CPU has a set, and nobody asked for a smaller one.
bool may_use(const char* name, bool supported) {
  const char* wanted = std::getenv("CANDLE_TF_INSTRUCTIONS");
  return supported && (wanted == nullptr || *wanted == 0 || std::strcmp(wanted, name) == 0);
}

bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool has_avx512popcnt() {
  return has_avx512() && __builtin_cpu_supports("avx512vpopcntdq");
}

const Kernels& chosen() {
  if (may_use("avx512popcnt", has_avx512popcnt())) return avx512_kernels();
  if (may_use("avx512", has_avx512())) return avx512_kernels();
  if (may_use("avx2", has_avx2())) return avx2_kernels();
  return baseline_kernels();
}

const BinaryKernels& binary_chosen() {
  if (may_use("avx512popcnt", has_avx512popcnt())) return avx512popcnt_binary_kernels();
  if (may_use("avx512", has_avx512())) return avx512_binary_kernels();
  if (may_use("avx2", has_avx2())) return avx2_binary_kernels();
  return baseline_binary_kernels();
}

#else

const Kernels& chosen() { return baseline_kernels(); }
const BinaryKernels& binary_chosen() { return baseline_binary_kernels(); }

#endif

}  // namespace

const Kernels& kernels() {
  static const Kernels& best = chosen();
  return best;
}

const BinaryKernels& binary_kernels() {
  static const BinaryKernels& best = binary_chosen();
  return best;
}

}  // namespace candle
