// Which of the compiled loops this CPU runs.

#include <cstdlib>
#include <cstring>

#include "binary_conv.h"
#include "gemm.h"
#include "kernels.h"
#include "lookup.h"

namespace candle {
namespace {

#if defined(__x86_64__)

// Whether the CPU has a set, and nobody asked for a smaller one.
bool may_use(const char* name, bool supported) {
  static const char* const kSets[] = {"baseline", "avx2", "avx512", "avx512popcnt", "avx512bf16"};
  const char* wanted = std::getenv("CANDLE_TF_INSTRUCTIONS");
  if (!supported || wanted == nullptr || *wanted == 0) return supported;
  for (const char* each : kSets) {
    // Whichever comes first is the smaller one.
    if (std::strcmp(name, each) == 0) return true;
    if (std::strcmp(wanted, each) == 0) return false;
  }
  return false;
}

bool may_use_avx2() {
  __builtin_cpu_init();
  return may_use("avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
}

bool may_use_avx512() {
  return may_use_avx2() &&
         may_use("avx512", __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                               __builtin_cpu_supports("avx512dq") &&
                               __builtin_cpu_supports("avx512vl"));
}

const Kernels& chosen() {
  if (may_use_avx512()) return avx512_kernels();
  if (may_use_avx2()) return avx2_kernels();
  return baseline_kernels();
}

const BinaryKernels& binary_chosen() {
  if (may_use_avx512()) {
    const bool counts = may_use("avx512popcnt", __builtin_cpu_supports("avx512vpopcntdq"));
    return counts ? avx512popcnt_binary_kernels() : avx512_binary_kernels();
  }
  if (may_use_avx2()) return avx2_binary_kernels();
  return baseline_binary_kernels();
}

const GemmKernels& gemm_chosen() {
  if (may_use_avx512()) {
    const bool pairs = may_use("avx512bf16", __builtin_cpu_supports("avx512bf16"));
    return pairs ? avx512bf16_gemm_kernels() : avx512_gemm_kernels();
  }
  if (may_use_avx2()) return avx2_gemm_kernels();
  return baseline_gemm_kernels();
}

const LookupKernels& lookup_chosen() {
  if (may_use_avx512()) return avx512_lookup_kernels();
  if (may_use_avx2()) return avx2_lookup_kernels();
  return baseline_lookup_kernels();
}

#else

const Kernels& chosen() { return baseline_kernels(); }
const BinaryKernels& binary_chosen() { return baseline_binary_kernels(); }
const GemmKernels& gemm_chosen() { return baseline_gemm_kernels(); }
const LookupKernels& lookup_chosen() { return baseline_lookup_kernels(); }

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

const GemmKernels& gemm_kernels() {
  static const GemmKernels& best = gemm_chosen();
  return best;
}

const LookupKernels& lookup_kernels() {
  static const LookupKernels& best = lookup_chosen();
  return best;
}

}  // namespace candle
