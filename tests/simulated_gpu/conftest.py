"""What the tests of this folder share: they are about the simulated GPU itself, and need none of the kernels."""

from __future__ import annotations

import torch

if torch.cuda.is_available():  # a real GPU is not disturbed by a simulated one
    collect_ignore_glob = ["test_*.py"]
