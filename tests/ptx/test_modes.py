"""Races, bounds and barriers by small kernels; and the same under the sanitizers, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ptx import Fault, Kernel, build, sanitizer

HEAD = ".version 8.8\n.target sm_90\n.address_size 64\n"
THREADS = 64


def kernel_text(body: str, shared: int = 0) -> str:
    """An entry of one pointer, with %a its address, %t the thread, %n the block and %s the address of its 4 bytes."""
    return (
        f"{HEAD}{f'.shared .align 16 .b8 s[{shared}];' if shared else ''}\n"
        ".visible .entry k(.param .u64 k_a)\n{\n"
        ".reg .b64 %a, %s;\n.reg .b32 %t, %n, %x, %y;\n.reg .pred %p, %q;\n"
        "ld.param.u64 %a, [k_a];\nmov.u32 %t, %tid.x;\nmov.u32 %n, %ctaid.x;\nmul.wide.u32 %s, %t, 4;\n"
        f"add.s64 %s, %s, %a;\nsetp.eq.s32 %p, %t, 0;\nsetp.eq.s32 %q, %n, 0;\n{body}\nret;\n}}\n"
    )


def run(
    body: str, elements: int = THREADS, blocks: int = 1, mode: str = "races", shared: int = 0, seed: int = 3
) -> list[int]:
    data = torch.zeros(elements, dtype=torch.int32)
    Kernel(kernel_text(body, shared), mode=mode)(blocks, [data.data_ptr()], threads=THREADS, seed=seed)
    values: list[int] = data.tolist()
    return values


def run_in_many_orders(body: str, elements: int = THREADS, shared: int = 0) -> None:
    """Two blocks: either may come first, and who is second may be the one that reads."""
    for seed in range(8):
        run(body, elements, 2, shared=shared, seed=seed)


MESSAGE = (  # the first block tells the others by a word; all write, one block reads
    "@%q st.global.u32 [%s+4], %t;\nbar.sync 0;\n"
    "@%p atom.global.gpu.acq_rel.add.u32 %x, [%a], 1;\n"
    "bar.sync 0;\n"
    "@%p st.shared.u32 [s], %x;\nbar.sync 0;\nld.shared.u32 %x, [s];\n"
    "setp.eq.s32 %p, %x, 1;\n@%p ld.global.u32 %y, [%s+4];"
)


def test_threads_have_numbers() -> None:
    assert run("st.global.u32 [%s], %t;") == list(range(THREADS))


@pytest.mark.parametrize("mode", ["fibers", "races"])
def test_a_kernel_without_faults(mode: str) -> None:
    for seed in range(8):
        assert run(MESSAGE, THREADS + 1, 2, mode, 16, seed)[0] == 2


@pytest.mark.parametrize(
    ("weaker", "said"),
    [
        (("acq_rel", "relaxed"), "race: read after write"),
        (("bar.sync 0;\n@%p atom", "@%p atom"), "race: read after write"),
        (("@%p st.shared.u32", "st.shared.u32"), "race: write after write"),
        (("bar.sync 0;\nld.shared", "ld.shared"), "race: "),
    ],
)
def test_weaker_orders_are_races(weaker: tuple[str, str], said: str) -> None:
    assert weaker[0] in MESSAGE
    with pytest.raises(Fault, match=said):
        run_in_many_orders(MESSAGE.replace(*weaker), THREADS + 1, 16)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("st.global.u32 [%a], %t;", "race: write after write"),
        ("st.global.u32 [%s], %t;\nld.global.u32 %x, [%a];", "race: "),
        ("atom.global.add.u32 %x, [%a], 1;\nld.global.u32 %x, [%a];", "race: "),
        ("ld.global.u32 %x, [%a];\natom.global.add.u32 %x, [%a], 1;", "race: "),
    ],
)
def test_races_within_a_block(body: str, said: str) -> None:
    with pytest.raises(Fault, match=said):
        run(body)
    run(body, mode="fibers")


def test_a_plain_write_ends_what_was_released() -> None:
    """Who acquires after a plain write of the word learns nothing of what was released there before."""
    body = (
        "@!%p bra done;\n"
        "@!%q bra second;\n"
        "st.global.u32 [%a+8], 1;\natom.global.release.gpu.add.u32 %x, [%a], 1;\nst.global.u32 [%a], 7;\nbra done;\n"
        "second:\natom.global.acquire.gpu.add.u32 %x, [%a], 1;\nld.global.u32 %x, [%a+8];\ndone:"
    )
    said = ""
    for seed in range(8):  # in either order the word itself is raced for, in one what it should guard too
        with pytest.raises(Fault) as fault:
            run(body, blocks=2, seed=seed)
        said += str(fault.value)
    assert "race: read after write" in said


def test_beside_a_tensor() -> None:
    for body, size in (("ld.global.u32 %x, [%s+4];", 4), ("st.global.v2.u32 [%a+248], {%t, %t};", 8)):
        elements = THREADS if size == 4 else THREADS - 1
        with pytest.raises(Fault, match=f"out of bounds: {size} bytes"):
            run(body, elements, mode="fibers")


def test_a_tensor_that_is_gone() -> None:
    data = torch.zeros(THREADS, dtype=torch.int32)
    kernel, address = Kernel(kernel_text("ld.global.u32 %x, [%s];")), data.data_ptr()
    kernel(1, [address], threads=THREADS)
    del data
    with pytest.raises(Fault, match="out of bounds"):
        kernel(1, [address], threads=THREADS)


def test_shared_memory_has_an_end() -> None:
    with pytest.raises(Fault, match="outside of shared memory: 4 bytes at 0x10"):
        run("ld.shared.u32 %x, [s+16];", mode="fibers", shared=16)


def test_shared_memory_begins_undefined() -> None:
    assert run("ld.shared.u32 %x, [s];\nst.global.u32 [%s], %x;", mode="fibers", shared=16)[0] == -0x32323233


def test_alignment() -> None:
    with pytest.raises(Fault, match="misaligned: 8 bytes"):
        run("ld.global.v2.u32 {%x, %y}, [%s+4];", 2 * THREADS, mode="fibers")


def test_a_barrier_that_some_threads_miss() -> None:
    with pytest.raises(Fault, match="warp part at a barrier"):
        run("@!%p bar.sync 0;", mode="fibers")
    with pytest.raises(Fault, match="32 of 64 threads ended while others wait"):
        run("setp.lt.s32 %p, %t, 32;\n@%p bar.sync 0;", mode="fibers")


# of lane i, where it takes from: by way, distance and c of PTX's shfl
SHUFFLES = {
    ("bfly", 5, 31): lambda i: i ^ 5,
    ("down", 3, 31): lambda i: min(i + 3, i if i + 3 > 31 else i + 3),
    ("up", 3, 0): lambda i: i - 3 if i >= 3 else i,
    ("idx", 7, 31): lambda i: 7,
    ("bfly", 9, 0x181F): lambda i: i ^ 9 if (i ^ 9) <= (i | 7) else i,  # segments of eight lanes
}


@pytest.mark.parametrize(("way", "distance", "c"), SHUFFLES)
@pytest.mark.parametrize("mode", ["fibers", "races"])
def test_shuffles(way: str, distance: int, c: int, mode: str) -> None:
    body = f"mul.lo.u32 %x, %t, 10;\nshfl.sync.{way}.b32 %y|%p, %x, {distance}, {c}, -1;\nst.global.u32 [%s], %y;"
    source = SHUFFLES[way, distance, c]
    assert run(body, mode=mode) == [10 * (t // 32 * 32 + source(t % 32)) for t in range(THREADS)]


def test_shuffles_one_after_the_other_and_reductions() -> None:
    steps = "".join(f"shfl.sync.bfly.b32 %y, %x, {n}, 31, -1;\nadd.u32 %x, %x, %y;\n" for n in (16, 8, 4, 2, 1))
    expected = [sum(range(t // 32 * 32, t // 32 * 32 + 32)) for t in range(THREADS)]
    for seed in range(4):
        assert run(f"mov.u32 %x, %t;\n{steps}st.global.u32 [%s], %x;", seed=seed) == expected
    assert run("redux.sync.add.u32 %x, %t, -1;\nst.global.u32 [%s], %x;") == expected
    assert run("redux.sync.max.s32 %x, %t, -1;\nst.global.u32 [%s], %x;") == [t | 31 for t in range(THREADS)]


def test_a_shuffle_that_some_threads_miss() -> None:
    with pytest.raises(Fault, match="warp part at a shuffle"):
        run("@!%p shfl.sync.bfly.b32 %y, %x, 1, 31, -1;", mode="fibers")
    with pytest.raises(Fault, match="part of a warp"):
        run("shfl.sync.bfly.b32 %y, %x, 1, 31, 15;", mode="fibers")


def test_one_write_of_many_threads_is_no_race() -> None:
    """Of equal values by one instruction: in a warp anywhere, in a block to shared memory."""
    run("mov.u32 %x, 5;\nst.shared.u32 [s], %x;", shared=16)
    same_place = "setp.lt.u32 %p, %t, 32;\nsub.u64 %s, %s, %s;\nadd.u64 %s, %s, %a;\nmov.u32 %x, 5;\n"
    run(f"{same_place}@%p st.global.u32 [%s], %x;")
    with pytest.raises(Fault, match="race: write after write"):
        run(f"{same_place}st.global.u32 [%s], %x;")
    with pytest.raises(Fault, match="race: write after write"):
        run("st.shared.u32 [s], %t;", shared=16)


def test_a_process_has_one_way_of_running_threads() -> None:
    run("")
    with pytest.raises(RuntimeError, match="use another process"):
        Kernel(kernel_text(""), mode="tsan")
    with pytest.raises(ValueError, match="must be fibers, races, tsan or asan"):
        Kernel(kernel_text(""), mode="fast")


def test_libraries_are_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSED_SCHED_PTX_CACHE", str(tmp_path / "here"))
    first = build.build("x", 'extern "C" int f() { return 1; }', "fibers")
    assert first.parent == tmp_path / "here"
    changed = first.stat().st_mtime_ns
    assert build.build("x", 'extern "C" int f() { return 1; }', "fibers") == first
    assert first.stat().st_mtime_ns == changed
    assert build.build("x", 'extern "C" int f() { return 2; }', "fibers") != first
    with pytest.raises(subprocess.CalledProcessError):
        build.build("x", "this is not C++", "fibers")
    assert len(list(first.parent.glob("*.so"))) == 2


SANITIZED = """
import ctypes, sys
from ptx import Kernel
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
address = libc.malloc(ctypes.c_size_t(256))
Kernel(sys.argv[2], mode=sys.argv[1])(2, [address], threads=64)
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "body", "said"),
    [
        ("tsan", "st.global.u32 [%a], %t;", "ThreadSanitizer: data race"),
        ("tsan", "@%q st.global.u32 [%s], %t;\nbar.sync 0;\n@%q ld.global.u32 %x, [%a];", ""),
        ("asan", "ld.global.u32 %x, [%s+4];", "AddressSanitizer: heap-buffer-overflow"),
        ("asan", "ld.global.u32 %x, [%s];", ""),
    ],
)
def test_sanitizers(mode: str, body: str, said: str) -> None:
    environment = {**os.environ, **sanitizer(mode), "PYTHONPATH": str(Path(__file__).parents[1])}
    command = ["setarch", os.uname().machine, "-R", sys.executable, "-c", SANITIZED, mode, kernel_text(body)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if said:
        assert said in done.stderr
    else:
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
