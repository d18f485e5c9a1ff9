"""What the tests of this folder share."""

from __future__ import annotations

from ptx import watch_memory

watch_memory()  # before a test makes tensors
