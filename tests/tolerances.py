"""How far results may be from the oracle, and why: the only place with such numbers."""

import torch

# A schedule is IEEE float64. + - * / and comparisons give one right answer everywhere; pow, exp, log,
# cos and sin come from the C library of the host, from torch's vector library or from the GPU's, each
# within a few units in the last place (2.2e-16), which a recursion over thousands of steps piles up.
SCHEDULE_RELATIVE = 1e-12

# The recursive cosine divides by 1 + cos(pi * (e - 1) / T_max), which nears 0 at the trough: the last
# places are magnified there. torch's own recursion is off its own closed form by up to 2.8e-9.
COSINE_PAST_TROUGH_RELATIVE = 1e-8

# Update rules against torch's for-loop, relative to the size of an element plus the tensor's root mean
# square, after the ten or so steps that a test takes. 64 and 32 bit: another order of the same
# roundings, or torch's vector square root, which is not correctly rounded. 16 bit: torch's for-loop
# rounds to 16 bit after every operation, ours once a step, so this is mostly torch's own error.
UPDATE_RELATIVE: dict[torch.dtype, float] = {
    torch.float64: 1e-14,
    torch.float32: 1e-6,
    torch.bfloat16: 8e-2,
    torch.float16: 8e-3,
    # torch multiplies complex numbers without fused multiply-adds. Where weight decay all but cancels a
    # gradient, the rounding is a good part of what is left, and Adam scales that up to a step of size lr.
    torch.complex64: 1e-3,
}

# The same of updates that clip. torch sums squares in the gradients' type, so that its factor is off by some units in
# the last place, by which all elements are off alike.
CLIPPED_RELATIVE: dict[torch.dtype, float] = {**UPDATE_RELATIVE, torch.float32: 4e-6, torch.float64: 1e-13}

# One update on two devices, or of two compilers, after five steps, relative to an element plus 1. All is
# rounded alike but the two powers of Adam, and an lr that came from another cosine. A unit in the last
# place of 0.999 ** t is 1.1e-13 of 1 - 0.999 ** t at the first step; in the shorter types it may turn a
# rounding of one step, seldom of two. SGD has no power: the same bits.
DEVICES_RELATIVE: dict[torch.dtype, float] = {
    torch.float64: 1e-14,
    torch.float32: 2e-6,
    torch.bfloat16: 2e-2,
    torch.float16: 2e-3,
}

# The same as UPDATE_RELATIVE after 1,000 steps in float64.
LONG_RUN_RELATIVE = 1e-12

# Root mean square errors of many elements against a float64 run, ours over torch's. Two sequences of
# equally good roundings differ by luck: of n elements, the rms is known to about 1 / sqrt(2 n).
RMS_RATIO_FLOAT32 = 1.01  # over torch's fused kernel, whose roundings are nearly ours: equal bits on x86
RMS_RATIO_16_BIT = 1.05  # over torch's for-loop, for 4,000 elements; storing to 16 bits dominates in both

# A training over several processes against one process, absolute and relative. They add up the parts of a gradient in
# another order, and Adam scales the rounding of a small gradient up to a part of a step of size lr.
SPREAD: dict[torch.dtype, float] = {torch.float64: 1e-12, torch.float32: 1e-4}
