"""How far results may be from the oracle, and why: the only place with such numbers."""

import torch

# A schedule is IEEE float64. + - * / and comparisons give one right answer everywhere; pow, exp, log,
# cos and sin come from the C library of the host, from torch's vector library or from the GPU's, each
# within a few units in the last place (2.2e-16), which a recursion over thousands of steps piles up.
SCHEDULE_RELATIVE = 1e-12

# The recursive cosine divides by 1 + cos(pi * (e - 1) / T_max), which nears 0 at the trough: the last
# places are magnified there. torch's own recursion is off its own closed form by up to 2.8e-9.
COSINE_PAST_TROUGH_RELATIVE = 1e-8

# Update rules against torch's for-loop: units in the last place of the parameter's dtype, from another
# order of the same roundings in one step, times the handful of steps that a test takes.
UPDATE_RELATIVE: dict[torch.dtype, float] = {
    torch.float64: 1e-12,
    torch.float32: 2e-6,
    torch.bfloat16: 2e-2,
    torch.float16: 4e-3,
}
