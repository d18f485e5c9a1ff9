#include "capability.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef FUSED_SCHED_X86
#include <cpuid.h>
#endif

namespace fused_sched {
namespace {

constexpr const char* kVariable = "FUSED_SCHED_CPU_CAPABILITY";

struct Candidate {
  Capability capability;
  bool supported;
};

#ifdef FUSED_SCHED_X86
// Conversions of float16; not every compiler knows it by name.
bool has_f16c() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

}  // namespace

bool choose_capability(Capability* chosen, char* message, int message_size) {
#ifdef FUSED_SCHED_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
#endif
  const Candidate candidates[] = {  // best first
#ifdef FUSED_SCHED_X86
      {{"avx512", &avx512::kKernels}, avx512},
      {{"avx2", &avx2::kKernels}, avx2},
#endif
      {{"portable", &portable::kKernels}, true},
  };
  const char* wanted = getenv(kVariable);
  const bool automatic = wanted == nullptr || wanted[0] == '\0';
  for (const Candidate& candidate : candidates) {
    if (automatic ? !candidate.supported : strcmp(wanted, candidate.capability.name) != 0) continue;
    if (!candidate.supported) {
      snprintf(message, message_size,
               "%s=%s is not supported by this processor; unset it, or set it to portable",
               kVariable, wanted);
      return false;
    }
    *chosen = candidate.capability;
    return true;
  }
  snprintf(message, message_size,
           "%s=%s is not known to this build; use portable, avx2 or avx512 (the last two on x86-64 "
           "only), or unset it",
           kVariable, wanted);
  return false;
}

}  // namespace fused_sched
