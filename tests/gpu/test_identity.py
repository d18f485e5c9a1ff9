"""Whatever is done to an optimizer, with captures and replays in between: as torch's on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from gpus import DEVICE, Gpu
from hypothesis.stateful import rule
from identity.lockstep import REFUSALS, Side
from identity.machine import Machine, N, run
from identity.transaction import Saved
from tolerances import SCHEDULE_RELATIVE


class WithGraphs(Machine):
    """Steps are captured and replayed too.

    What would move memory that a graph points to is refused by ours alone: there the sequence starts anew.
    """

    gpu: Gpu

    def begin(self, which: tuple[str, str], sizes: list[int]) -> None:
        super().begin(which, sizes)
        self.which, self.graphs = which, []

    def do(self, act: Callable[[Side], Any], ours: Callable[[Side], Any] | None = None) -> bool:
        try:
            return super().do(act, ours)
        except RuntimeError as reason:
            if not self.graphs or "captured" not in str(reason):
                raise
            self.begin(self.which, [1, 2])
            return False

    @rule(n=N, times=st.integers(1, 4))
    def capture_and_replay(self, n: int, times: int) -> None:
        """Replays are the steps that they were captured from."""
        self.gradients(n)
        if not self.update():
            return
        held = [i for i, s in enumerate(self.pair.torchs.schedulers) if s is not None and self.fused[i]]
        torchs, ours, saved = self.pair.torchs, self.pair.ours, Saved(self.pair.torchs)
        try:
            for _ in range(times):
                torchs.optimizer.step()
                for scheduler in self.in_order:
                    scheduler.step()
        except REFUSALS:
            saved.put_back()
            return

        def body() -> None:
            ours.optimizer.step()
            for i in held:
                ours.schedulers[i].step()

        graph = self.gpu.capture(body)
        self.graphs.append(graph)
        self.pair.states_in_reserve = True
        for _ in range(times):
            graph.replay()
        self.gpu.synchronize()


@pytest.mark.slow
def test_whatever_python_allows_with_captures_in_between(gpu: Gpu, gpu_backend: Any, seed: int) -> None:
    where = {"device": DEVICE, "lr_relative": SCHEDULE_RELATIVE}
    run(WithGraphs, seed, 20, backend=gpu_backend, gpu=gpu, where=where)
