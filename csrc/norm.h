// What becomes of a norm: the factor that gradients are multiplied by, and whether the step is skipped.
#pragma once

#include "control_block.h"
#include "fields.h"

namespace fused_sched {

// What a SpikeRule remembers, and its numbers; see fused_sched/step_options.py.
struct Spikes {
  double* norms;  // one for each step of the window; null without such a rule
  int64_t window;
  int64_t least;  // norms, the present one among them, from which on a step may be skipped
  double deviations;
};

namespace FUSED_SCHED_ISA {

FUSED_SCHED_HD inline bool is_finite(double x) { return x - x == 0.0; }

// As torch.nn.utils.clip_grad_norm_; infinity clips nothing, whatever the norm is.
FUSED_SCHED_HD inline double clip_factor(double most, double norm) {
  if (!is_finite(most) && most > 0.0) return 1.0;
  const double factor = most / (norm + 1e-6);
  return factor > 1.0 ? 1.0 : factor;  // NaN stays
}

FUSED_SCHED_HD inline void note_group_norm(double* row, bool clips, double norm) {
  row[kMeasuredGroupNorm] = norm;
  row[kMeasuredClipFactor] = clips ? clip_factor(read_field(row, kFieldMaxGradNorm), norm) : 1.0;
}

FUSED_SCHED_HD inline int64_t known_norms(const Spikes& s, int64_t seen) {
  return seen < s.window ? seen : s.window;
}

// Whether a norm is larger than the known ones let expect, which have this mean, and this sum of
// the squares of their distances from it. It is remembered where it is finite.
FUSED_SCHED_HD inline bool judge(const Spikes& s, int64_t* seen, double norm, double mean,
                                 double squares) {
  const int64_t known = known_norms(s, *seen);
  const double deviation = sqrt(squares / static_cast<double>(known - 1));
  const bool spike = known + 1 >= s.least && !(norm - mean <= s.deviations * deviation);
  if (is_finite(norm)) {
    s.norms[*seen % s.window] = norm;
    *seen += 1;
  }
  return spike;
}

FUSED_SCHED_HD inline bool is_spike(const Spikes& s, int64_t* seen, double norm) {
  const int64_t known = known_norms(s, *seen);
  double mean = 0.0, squares = 0.0;
  for (int64_t i = 0; i < known; ++i) mean += s.norms[i];
  mean /= static_cast<double>(known);
  for (int64_t i = 0; i < known; ++i) squares += (s.norms[i] - mean) * (s.norms[i] - mean);
  return judge(s, seen, norm, mean, squares);
}

FUSED_SCHED_HD inline void note_decision(double* control, double norm, bool skipped) {
  int64_t* header = reinterpret_cast<int64_t*>(control);
  control[kHeaderGradNorm] = norm;
  header[kHeaderSkipped] = skipped ? 1 : 0;
  header[kHeaderSkippedSteps] += skipped ? 1 : 0;
}

// Notes the norm of all gradients in the header, and whether the step is skipped. What somebody else
// stops is not remembered.
FUSED_SCHED_HD inline void decide(double* control, double norm, bool found_inf, bool only_finite,
                                  const Spikes& spikes) {
  int64_t* header = reinterpret_cast<int64_t*>(control);
  bool skipped = found_inf || (only_finite && !is_finite(norm));
  if (!found_inf && spikes.norms != nullptr && is_spike(spikes, header + kHeaderNormsSeen, norm)) {
    skipped = true;
  }
  note_decision(control, norm, skipped);
}

}  // namespace FUSED_SCHED_ISA
}  // namespace fused_sched
