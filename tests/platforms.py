"""Platforms for tests, in the place of what asks torch.cuda."""

from __future__ import annotations

import torch

from fused_sched.memory.platforms import Platform


class Mirrored(Platform):
    """Says that a control block needs a host mirror, as on a GPU, though its memory is on the CPU."""

    def is_remote(self, device: torch.device) -> bool:
        return True


MIRRORED = Mirrored()
