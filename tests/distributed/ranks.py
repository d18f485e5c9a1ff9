"""Processes that run functions as the ranks of a group; kept from test to test, as their imports take seconds."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from interpreter import imitate_hardware

IMPORTED = [  # once for all of them
    *("torch.distributed.fsdp", "torch.distributed.tensor.parallel", "torch.distributed.checkpoint.state_dict"),
    "torch.distributed.tensor.debug",  # and nothing of ours: the server would take the one in its working directory
]
GONE = "the process is gone"
COLLECTIVE_SECONDS = 20  # after which a collective that somebody is missing from raises


class RankError(Exception):
    """What went wrong on a rank; its traceback."""


def _serve(pipe: Connection) -> None:
    torch.set_num_threads(1)
    if os.environ.get("TRITON_INTERPRET") == "1":
        imitate_hardware(pytest.MonkeyPatch())
    while True:
        try:
            function, rank, world, store, arguments = pipe.recv()
        except EOFError:
            return
        try:
            dist.init_process_group(
                "gloo",
                store=dist.FileStore(store, world),
                rank=rank,
                world_size=world,
                timeout=timedelta(seconds=COLLECTIVE_SECONDS),
            )
            dist.barrier()  # all are there: one that is done soon does not leave while others arrive
            pipe.send((True, function(*arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


class Ranks:
    """Runs functions on several ranks at once.

    A process always is the same rank: what torch finds out of a mesh for one, it keeps while the process lives.
    """

    def __init__(self) -> None:
        self._workers: list[tuple[Any, Connection]] = []
        self._folder = tempfile.TemporaryDirectory()
        self._runs = 0

    def run(self, world: int, function: Callable[..., Any], *arguments: Any, seconds: float = 60) -> list[Any]:
        """What a function returns on each rank.

        Args:
            world: number of ranks.
            function: of a module, called with ``arguments`` in a process group.
            seconds: after which it fails, and the processes are ended.

        Raises:
            RankError: it raised somewhere.
        """
        outcomes = self.outcomes(world, function, *arguments, seconds=seconds)
        failed = [f"rank {rank}:\n{value}" for rank, (well, value) in enumerate(outcomes) if not well]
        if failed:
            raise RankError("\n".join(failed))
        return [value for _, value in outcomes]

    def outcomes(
        self, world: int, function: Callable[..., Any], *arguments: Any, seconds: float = 60
    ) -> list[tuple[bool, Any]]:
        """As :meth:`run`: of each rank, whether it returned, and its result or traceback."""
        while len(self._workers) < world:
            self._workers.append(self._worker())
        self._runs += 1
        store = str(Path(self._folder.name, f"store {self._runs}"))
        for rank in range(world):
            self._workers[rank][1].send((function, rank, world, store, arguments))
        outcomes: dict[int, tuple[bool, Any]] = {}
        end = time.monotonic() + seconds
        while len(outcomes) < world:
            pipes = {self._workers[rank][1]: rank for rank in range(world) if rank not in outcomes}
            ready = wait(list(pipes), max(0.0, end - time.monotonic()))
            if not ready:
                self.close()
                raise RankError(f"no answer from ranks {sorted(pipes.values())} within {seconds} s")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                try:
                    outcomes[pipes[pipe]] = pipe.recv()
                except EOFError:
                    outcomes[pipes[pipe]] = False, GONE
        for rank, (_, value) in outcomes.items():
            if value == GONE:
                self._workers[rank][1].close()
                self._workers[rank] = self._worker()
        return [outcomes[rank] for rank in range(world)]

    def _worker(self) -> tuple[Any, Connection]:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there,), daemon=True)
        process.start()
        there.close()
        return process, here

    def close(self) -> None:
        """End the processes."""
        workers: Sequence[tuple[Any, Connection]] = self._workers
        self._workers = []
        for process, pipe in workers:
            pipe.close()
            process.kill()
        for process, _ in workers:
            process.join(10)
