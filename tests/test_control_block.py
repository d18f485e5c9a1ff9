"""The control block: rows, the host's mirror of it, and when the device is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from platforms import MIRRORED

from fused_sched.memory.bindings import SILENT, SINGLE
from fused_sched.memory.control_block import (
    BOUND,
    FIELDS,
    GROUP_STRIDE,
    GROUPS_OFFSET,
    HEADER,
    NO_COUNT,
    SPARE,
    ControlBlock,
)
from fused_sched.memory.hosted_array import HostedArray
from fused_sched.memory.mirrors import Replay
from fused_sched.memory.platforms import TORCH, Platform

CPU = torch.device("cpu")


class CountingArray(HostedArray):
    """Counts how often the device is read."""

    reads = 0

    def refresh(self) -> None:
        type(self).reads += 1
        super().refresh()


@pytest.fixture
def array() -> HostedArray:
    CountingArray.reads = 0
    return CountingArray(torch.arange(6, dtype=torch.float64), CPU, platform=MIRRORED)


def test_local_array_is_the_tensors_memory() -> None:
    values = torch.arange(4, dtype=torch.float64)
    array = HostedArray(values, CPU)
    assert array.remote is False
    array.write(1, 7.5)
    array.write_range(2, [8.5, -0.0])
    assert array.tensor.tolist() == [0.0, 7.5, 8.5, 0.0]
    array.tensor[0] = 9.0
    assert array.read(0) == 9.0
    assert array.read_range(0, 3) == [9.0, 7.5, 8.5]
    assert values.tolist() == [0.0, 1.0, 2.0, 3.0]  # the values were copied


def test_remote_array_writes_to_both(array: HostedArray) -> None:
    array.write(1, 7.5)
    array.write_range(3, [1.5, 2.5])
    assert array.tensor.tolist() == [0.0, 7.5, 2.0, 1.5, 2.5, 5.0]
    assert array.read_range(0, 6) == [0.0, 7.5, 2.0, 1.5, 2.5, 5.0]
    assert CountingArray.reads == 0


def test_remote_array_reads_the_device_once_after_the_device_decided(array: HostedArray) -> None:
    array.tensor[2] = 20.0  # as a kernel would
    assert array.read(2) == 2.0  # nobody said so
    array.expire()
    assert (array.read(2), array.read(2), array.read_range(1, 3)) == (20.0, 20.0, [1.0, 20.0])
    assert CountingArray.reads == 1


def test_write_while_stale_is_not_lost(array: HostedArray) -> None:
    array.tensor[2] = 20.0
    array.expire()
    array.write(1, 10.0)
    assert array.read_range(0, 3) == [0.0, 10.0, 20.0]


def test_volatile_array_reads_the_device_every_time(array: HostedArray) -> None:
    array.volatile = True
    for value in (3.0, 4.0):
        array.tensor[2] = value
        assert array.read(2) == value
    assert CountingArray.reads == 2


def test_copy_from_device_takes_any_one_element_tensor(array: HostedArray) -> None:
    array.copy_from_device(0, torch.tensor([0.5], dtype=torch.float32))
    array.copy_from_device(1, torch.tensor(3))
    array.copy_from_device(2, torch.tensor([[0.25]], dtype=torch.float16, requires_grad=True))
    assert CountingArray.reads == 0
    assert array.read_range(0, 3) == [0.5, 3.0, 0.25]
    assert CountingArray.reads == 1


def test_hosted_part_alone_is_mirrored() -> None:
    array = HostedArray(torch.arange(6, dtype=torch.float64), CPU, hosted=2, platform=MIRRORED)
    assert len(array.host) == 2
    array.expire()
    assert array.read_range(0, 2) == [0.0, 1.0]
    with pytest.raises(IndexError):
        array.read(2)


@pytest.mark.parametrize("platform", [TORCH, MIRRORED], ids=["local", "remote"])
def test_rows_and_counts(platform: Platform) -> None:
    block = ControlBlock(CPU, 3, 5, platform)
    rows = [block.claim_row() for _ in range(3)]
    assert [row.index for row in rows] == [0, 1, 2]
    assert block.row_capacity == 6 + SPARE
    assert block.tensor.numel() == GROUPS_OFFSET + block.row_capacity * GROUP_STRIDE
    assert (block.counts.shape, block.counts.dtype) == ((1 + 10 + SPARE,), torch.int64)
    assert not block.tensor.any()
    for group in range(3):
        for number, field in enumerate(FIELDS):
            block.write(block.slot(group, field), 100.0 * group + number)
    values = block.tensor[GROUPS_OFFSET : GROUPS_OFFSET + 3 * GROUP_STRIDE].view(3, GROUP_STRIDE)
    for group in range(3):
        assert values[group, : len(FIELDS)].tolist() == [100.0 * group + n for n in range(len(FIELDS))]
    assert not block.counts.any()
    block.counts[4] = 2**40
    assert values[2, : len(FIELDS)].tolist() == [200.0 + n for n in range(len(FIELDS))]
    assert not block.skipped()
    block.integers[HEADER["skipped"]] = 1
    assert block.skipped()


@pytest.mark.parametrize("of_one", [True, False], ids=["of one optimizer", "of two"])
def test_mirrors_of_one_optimizer_are_read_together(of_one: bool) -> None:
    first = HostedArray(torch.zeros(3, dtype=torch.float64), CPU, platform=MIRRORED)
    second = HostedArray(
        torch.zeros(2, dtype=torch.float64), CPU, platform=MIRRORED, mirrors=first.mirrors if of_one else None
    )
    first.tensor.fill_(1.0)
    second.tensor.fill_(2.0)
    first.expire()
    assert second.stale == of_one
    assert (first.read(0), second.host[0]) == (1.0, 2.0 if of_one else 0.0)
    assert not second.stale
    second.tensor.fill_(3.0)
    second.note_capture()  # every read of it waits from now on; of the other, the next
    assert first.stale == of_one
    assert (first.read(0), second.read(0)) == (1.0, 3.0)
    second.tensor.fill_(4.0)
    assert not first.stale
    assert second.read(0) == 4.0


def remote_arrays(n: int) -> list[HostedArray]:
    first = HostedArray(torch.zeros(2, dtype=torch.float64), CPU, platform=MIRRORED)
    more = [HostedArray(torch.zeros(2, dtype=torch.float64), CPU, None, MIRRORED, first.mirrors) for _ in range(n - 1)]
    return [first, *more]


def test_what_came_between_is_not_taken_for_known() -> None:
    """A mirror that began while the others were out of date, which then turned out to be right."""
    (first,) = remote_arrays(1)
    age = first.mirrors.age
    first.expire()
    late = HostedArray(torch.zeros(2, dtype=torch.float64), CPU, None, MIRRORED, first.mirrors)
    assert first.resume(age)
    first.expire()
    late.tensor.fill_(7.0)
    assert late.read(0) == 7.0


@pytest.mark.parametrize("what", ["another expire", "a read", "a replay"])
def test_taken_back_only_where_nothing_came_between(what: str) -> None:
    (first,) = remote_arrays(1)
    age, replay = first.mirrors.age, Replay()
    replay.add(lambda: None)
    first.expire()
    first.tensor.fill_(7.0)
    if what == "another expire":
        first.expire()
    elif what == "a read":
        first.read(0)
    else:
        first.mirrors.note_replay(replay)
    assert not first.resume(age)
    assert first.read(0) == 7.0


def counting(array: HostedArray) -> Replay:
    """A graph that adds 1, as the host can follow it."""
    replay = Replay()

    def follow() -> None:
        array.host[0] += 1.0

    replay.add(follow)
    return replay


def test_replays_are_followed_in_order_when_somebody_looks() -> None:
    first, second = remote_arrays(2)
    one, two = counting(first), counting(first)
    two.add(lambda: second.host.__setitem__(0, 10.0 * first.host[0]))
    for replay in (one, two, one):
        first.mirrors.note_replay(replay)
    assert (first.host[0], second.host[0]) == (0.0, 0.0)
    assert (second.read(0), first.read(0)) == (20.0, 3.0)
    first.mirrors.note_replay(one)
    first.write(0, 0.5)  # after the replay, as on the device
    assert first.read(0) == 0.5


def test_replays_that_cannot_be_followed_are_read() -> None:
    (array,) = remote_arrays(1)
    replays = {name: counting(array) for name in ("unknown", "no longer so", "gone", "many")}
    replays["unknown"].give_up()
    replays["no longer so"].conditions.append(lambda: False)
    for name in list(replays):
        array.tensor.fill_(ord(name[0]))
        for _ in range(1000 if name == "many" else 1):
            array.mirrors.note_replay(replays[name])
        if name == "gone":
            del replays[name]
        assert array.read(0) == ord(name[0])


@pytest.mark.parametrize(
    ("events", "known"),
    [("open close", True), ("open", False), ("open other", False), ("open add close", False), ("open open", False)],
)
def test_what_a_capture_leaves_open_is_unknown(events: str, known: bool) -> None:
    replay, owner = Replay(), object()
    for event in events.split():
        if event == "open":
            replay.leave_open(owner)
        elif event == "add":
            replay.add(lambda: None)
        else:
            replay.close(owner if event == "close" else object(), lambda: None, lambda: True)
    replay.finish()
    assert (replay.steps is not None) == known


@pytest.mark.parametrize("platform", [TORCH, MIRRORED], ids=["local", "remote"])
@pytest.mark.parametrize("stale", [False, True])
def test_a_block_that_grows_keeps_rows_tensors_and_counts(platform: Platform, stale: bool) -> None:
    """What only the device knows of them is not lost, and what is known is not asked for."""
    block = ControlBlock(CPU, 0, 0, platform)
    rows = [block.claim_row() for _ in range(3)]
    slot = block.slot(1, "lr")
    block.write_range(slot, [0.5, 0.25])
    if stale:
        block.copy_from_device(slot, torch.tensor(0.75))
    counts = [block.claim_count() for _ in range(3)]
    block.counts[counts[1].index] = 7
    before = block.tensor, block.counts
    rows += [block.claim_row() for _ in range(2 * SPARE)]
    counts += [block.claim_count() for _ in range(2 * SPARE)]
    assert block.tensor is not before[0]
    assert block.counts is not before[1]
    assert block.stale == (stale and block.remote)
    expected = [0.75 if stale else 0.5, 0.25]
    assert block.tensor[slot : slot + 2].tolist() == expected
    assert block.read_range(slot, slot + 2) == expected
    assert [row.index for row in rows] == [*range(len(rows))]
    assert NO_COUNT not in {count.index for count in counts}
    assert block.counts.nonzero().flatten().tolist() == [counts[1].index]
    lr = torch.tensor(0.5)
    block.bind(2, "lr", lr)
    rows += [block.claim_row() for _ in range(4 * SPARE)]
    assert block.integers[block.slot(2, "lr") + BOUND] == lr.data_ptr() + SINGLE
    lr.fill_(3.5)
    assert block.read_field(2, "lr") == 3.5


@pytest.mark.parametrize("platform", [TORCH, MIRRORED], ids=["local", "remote"])
def test_a_place_is_free_when_its_owner_is_gone(platform: Platform) -> None:
    block = ControlBlock(CPU, 0, 0, platform)
    first, second = block.claim_row(), block.claim_row()
    block.write(block.slot(second.index, "eps"), 5.0)
    index = second.index
    del second
    again = block.claim_row()
    assert again.index == index
    assert block.read(block.slot(index, "eps")) == block.tensor[block.slot(index, "eps")] == 0.0
    count = block.claim_count()
    block.counts[count.index] = 9
    index = count.index
    del count
    count = block.claim_count()
    assert (count.index, int(block.counts[index])) == (index, 0)
    assert first.index == 0


def test_what_a_graph_has_seen_is_nobody_elses() -> None:
    block = ControlBlock(CPU, 0, 0, MIRRORED)
    row, count = block.claim_row(), block.claim_count()
    seen = row.index, count.index
    block.note_capture()
    later = block.claim_row()
    free = later.index
    del row, count, later
    assert (block.claim_row().index, block.claim_count().index) == (free, seen[1] + 1)
    memory = block.tensor, block.counts
    rows, counts = [], []
    with pytest.raises(RuntimeError, match="no room for more param groups.*a captured CUDA graph points to it"):
        rows += [block.claim_row() for _ in range(2 * SPARE)]
    with pytest.raises(RuntimeError, match="no room for more parameters with state"):
        counts += [block.claim_count() for _ in range(2 * SPARE)]
    assert (block.tensor is memory[0], block.counts is memory[1]) == (True, True)


@pytest.mark.parametrize("platform", [TORCH, MIRRORED], ids=["local", "remote"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_field_that_follows_a_tensor(platform: Platform, dtype: torch.dtype) -> None:
    """It is more exact than the tensor until somebody writes to that."""
    block = ControlBlock(CPU, 2, 0, platform)
    rows = [block.claim_row().index for _ in range(2)]
    tensor = torch.tensor(0.1, dtype=dtype)
    block.write(block.slot(0, "lr"), 0.1)
    block.bind(0, "lr", tensor)
    assert (block.read_field(0, "lr"), block.read_field(1, "lr")) == (0.1, 0.0)
    tensor.fill_(0.7)
    assert block.read_field(0, "lr") == tensor.item()
    tensor.fill_(float("nan"))
    assert block.read_field(0, "lr") != block.read_field(0, "lr")
    block.bind(0, "lr", None)
    assert block.read_field(0, "lr") == 0.1
    assert not block.integers[block.slot(rows[0], "lr") + BOUND]


def _writers(block: ControlBlock, rows: int) -> list[int]:
    words = [int(block.integers[block.slot(row, "lr") + BOUND]) for row in range(rows)]
    return [row for row, word in enumerate(words) if word and not word & SILENT]


def test_the_last_of_those_that_share_a_tensor_writes_it() -> None:
    block = ControlBlock(CPU, 4, 0)
    slots = [block.claim_row() for _ in range(4)]
    shared, own = torch.tensor(0.5), torch.tensor(0.25)
    for row in (2, 0, 1):
        block.bind(row, "lr", shared)
    block.bind(3, "lr", own)
    assert _writers(block, 4) == [2, 3]
    block.note_order([2, 3, 0, 1])
    assert _writers(block, 4) == [1, 3]
    block.bind(1, "lr", None)
    assert _writers(block, 4) == [0, 3]
    block.bind(1, "lr", own)
    assert _writers(block, 4) == [0, 1]
    index = slots.pop().index  # the row of a group that is gone
    again = block.claim_row()
    assert again.index == index
    assert (_writers(block, 4), block.bindings.get(index, "lr")) == ([0, 1], None)


def test_a_tensor_that_a_graph_would_not_see_is_refused() -> None:
    block = ControlBlock(CPU, 1, 0, MIRRORED)
    slot = block.claim_row()
    block.bind(slot.index, "lr", torch.tensor(0.5))
    block.note_capture()
    block.bind(slot.index, "lr", torch.tensor(0.25))  # the graph looks for one
    with pytest.raises(RuntimeError, match="^momentum was assigned as a tensor, but a captured CUDA graph has no mom"):
        block.bind(slot.index, "momentum", torch.tensor(0.5))
    assert block.bindings.get(slot.index, "momentum") is None


def test_block_outlives_the_tensor_it_was_made_from(host_backend: str) -> None:
    """The host reads the tensor's memory by address: the block must keep it alive."""
    values: Any = torch.full((1000,), 3.0, dtype=torch.float64)
    array = HostedArray(values, CPU)
    del values
    other = [torch.zeros(1000, dtype=torch.float64) for _ in range(50)]
    assert array.read_range(0, 1000) == [3.0] * 1000
    assert len(other) == 50
