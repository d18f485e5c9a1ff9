"""Instructions give what the PTX manual says; what is not known is refused."""

from __future__ import annotations

import math
import struct

import pytest
import torch

from ptx import Fault, Kernel, Unknown

HEAD = ".version 8.8\n.target sm_90\n.address_size 64\n"


def module(body: str, registers: str = "") -> str:
    """An entry ``k(in, out)`` whose %a and %o are the addresses of its arguments."""
    return (
        f"{HEAD}.visible .entry k(.param .u64 k_in, .param .u64 .ptr .global .align 8 k_out)\n{{\n"
        f".reg .b64 %a, %o;\n{registers}\n"
        f"ld.param.u64 %a, [k_in];\nld.param.u64 %o, [k_out];\n{body}\nret;\n}}\n"
    )


def run(body: str, registers: str, given: bytes, result: int = 8, threads: int = 1) -> bytes:
    inputs = torch.frombuffer(bytearray(given), dtype=torch.uint8).clone()
    out = torch.zeros(result, dtype=torch.uint8)
    Kernel(module(body, registers))(1, [inputs.data_ptr(), out.data_ptr()], threads=threads)
    return bytes(out.tolist())


def evaluate(operation: str, kind: str, *values: float | int, result: str | None = None) -> float | int:
    """One instruction on operands of one type."""
    code = {"f32": "f", "f64": "d", "s32": "i", "u32": "I", "b32": "I", "s64": "q", "u64": "Q", "b64": "Q", "u16": "H"}
    size = struct.calcsize(code[kind])
    result = result or kind
    names = [f"%x{i}" for i in range(len(values))]
    bits = {"pred": "pred"}.get(result, f"b{8 * struct.calcsize(code.get(result, 'I'))}")
    registers = f".reg .b{8 * size} %x<{len(values)}>;\n.reg .{bits} %r;\n.reg .b32 %s;"
    body = "".join(f"ld.global.b{8 * size} {n}, [%a+{size * i}];\n" for i, n in enumerate(names))
    body += f"{operation} {', '.join(['%r', *names])};\n"
    if result == "pred":
        body += "selp.u32 %s, 1, 0, %r;\nst.global.u32 [%o], %s;"
        result = "u32"
    else:
        body += f"st.global.{bits} [%o], %r;"
    data = b"".join(struct.pack(f"<{code[kind]}", v) for v in values)
    unpacked = struct.unpack(f"<{code[result]}", run(body, registers, data, struct.calcsize(code[result])))
    value: float | int = unpacked[0]
    return value


@pytest.mark.parametrize(
    ("operation", "kind", "values", "expected"),
    [
        ("add.s32", "s32", (2**31 - 1, 1), -(2**31)),
        ("sub.s64", "s64", (-(2**63), 1), 2**63 - 1),
        ("mul.lo.s32", "s32", (-7, 123456789), -864197523),
        ("mul.lo.u32", "u32", (2**31 + 3, 5), (2**31 + 3) * 5 % 2**32),
        ("mul.hi.s32", "s32", (-1, 5), -1),
        ("mul.hi.u64", "u64", (2**63, 6), 3),
        ("mul.lo.u16", "u16", (65535, 65535), 1),
        ("mad.lo.s32", "s32", (3, -4, 5), -7),
        ("div.s32", "s32", (-7, 2), -3),
        ("rem.s32", "s32", (-7, 2), -1),
        ("div.u32", "u32", (2**32 - 7, 2), (2**32 - 7) // 2),
        ("min.s32", "s32", (-1, 1), -1),
        ("min.u32", "u32", (2**32 - 1, 1), 1),
        ("max.s64", "s64", (-1, 1), 1),
        ("neg.s32", "s32", (5,), -5),
        ("abs.s64", "s64", (-5,), 5),
        ("and.b32", "b32", (12, 10), 8),
        ("or.b64", "b64", (12, 10), 14),
        ("xor.b32", "b32", (12, 10), 6),
        ("not.b32", "b32", (0,), 2**32 - 1),
        ("shl.b32", "b32", (1, 32), 0),
        ("shl.b32", "b32", (3, 4), 48),
        ("shr.u32", "u32", (2**31, 31), 1),
        ("shr.s32", "s32", (-8, 40), -1),
        ("shf.l.wrap.b32", "b32", (0x80000000, 1, 33), 3),
        ("shf.r.clamp.b32", "b32", (7, 9, 32), 9),
        ("bfe.u32", "u32", (0xABCD, 4, 8), 0xBC),
        ("bfe.s32", "s32", (0xF0, 4, 4), -1),
        ("bfi.b32", "b32", (0xF, 0, 8, 4), 0xF00),
        ("prmt.b32", "b32", (0x33221100, 0x77665544, 0x7531), 0x77553311),
        ("lop3.b32", "b32", (12, 10, 6, 0x80), 12 & 10 & 6),
        ("clz.b32", "b32", (1,), 31),
        ("popc.b32", "b32", (0xF0F,), 8),
        ("div.rn.f32", "f32", (1.0, 3.0), struct.unpack("f", struct.pack("f", 1 / 3))[0]),
        ("fma.rn.f64", "f64", (1 + 2**-30, 1 + 2**-30, -1.0), 2**-29 + 2**-60),
        ("sqrt.rn.f64", "f64", (2.0,), math.sqrt(2.0)),
        ("min.f64", "f64", (math.nan, 3.0), 3.0),
        ("max.f32", "f32", (-0.0, 0.0), 0.0),
        ("abs.f64", "f64", (-2.5,), 2.5),
        ("neg.f64", "f64", (2.5,), -2.5),
        ("copysign.f64", "f64", (-1.0, 3.0), -3.0),
        ("rcp.approx.ftz.f64", "f64", (4.0,), 0.25),
        ("ex2.approx.ftz.f32", "f32", (10.0,), 1024.0),
        ("add.ftz.f32", "f32", (1e-40, 0.0), 0.0),
    ],
    ids=str,
)
def test_values(operation: str, kind: str, values: tuple[float, ...], expected: float) -> None:
    got = evaluate(operation, kind, *values)
    assert got == expected
    assert math.copysign(1, got) == math.copysign(1, expected)


@pytest.mark.parametrize(
    ("operation", "kind", "result", "value", "expected"),
    [
        ("cvt.rzi.s32.f64", "f64", "s32", -2.9, -2),
        ("cvt.rni.s32.f64", "f64", "s32", 2.5, 2),
        ("cvt.rmi.s32.f64", "f64", "s32", -2.1, -3),
        ("cvt.rpi.s32.f64", "f64", "s32", 2.1, 3),
        ("cvt.rzi.s32.f64", "f64", "s32", 1e300, 2**31 - 1),
        ("cvt.rzi.u32.f32", "f32", "u32", -5.0, 0),
        ("cvt.rzi.s32.f32", "f32", "s32", math.nan, 0),
        ("cvt.rzi.s64.f64", "f64", "s64", math.nan, -(2**63)),
        ("cvt.rmi.f64.f64", "f64", "f64", -0.5, -1.0),
        ("cvt.rn.f32.f64", "f64", "f32", 1 + 2**-25, 1.0),
        ("cvt.f64.f32", "f32", "f64", 0.5, 0.5),
        ("cvt.rn.f64.s64", "s64", "f64", -3, -3.0),
        ("cvt.s64.s32", "s32", "s64", -3, -3),
        ("cvt.u64.u32", "u32", "u64", 2**32 - 1, 2**32 - 1),
        ("cvt.u32.u64", "u64", "u32", 2**40 + 5, 5),
    ],
    ids=str,
)
def test_conversions(operation: str, kind: str, result: str, value: float, expected: float) -> None:
    assert evaluate(operation, kind, value, result=result) == expected


@pytest.mark.parametrize("value", [1.0, 1.00390625, 1.01171875, 3.3895314e38, math.inf, 1e-40, -2.5])
def test_16_bit_types_round_as_torch(value: float) -> None:
    for kind, dtype in (("bf16", torch.bfloat16), ("f16", torch.float16)):
        registers = ".reg .b32 %x;\n.reg .b16 %h;"
        body = f"ld.global.b32 %x, [%a];\ncvt.rn.{kind}.f32 %h, %x;\nst.global.b16 [%o], %h;"
        bits = run(body, registers, struct.pack("<f", value), 2)
        expected = torch.tensor([value], dtype=torch.float32).to(dtype).view(torch.uint8)
        assert bits == bytes(expected.tolist())


@pytest.mark.parametrize(
    ("operation", "kind", "values", "expected"),
    [
        ("setp.lt.s32", "s32", (-1, 1), True),
        ("setp.lt.u32", "u32", (2**32 - 1, 1), False),
        ("setp.hi.u32", "u32", (2**32 - 1, 1), True),
        ("setp.ne.f64", "f64", (math.nan, 1.0), False),
        ("setp.neu.f64", "f64", (math.nan, 1.0), True),
        ("setp.gtu.f64", "f64", (math.nan, 1.0), True),
        ("setp.nan.f32", "f32", (math.nan, 1.0), True),
        ("setp.num.f32", "f32", (2.0, 1.0), True),
        ("setp.eq.f64", "f64", (-0.0, 0.0), True),
    ],
    ids=str,
)
def test_comparisons(operation: str, kind: str, values: tuple[float, ...], expected: bool) -> None:
    assert evaluate(operation, kind, *values, result="pred") == expected


def test_carries_go_from_word_to_word() -> None:
    registers = ".reg .b32 %x<4>, %r<4>;"
    body = "ld.global.v4.b32 {%x0, %x1, %x2, %x3}, [%a];\n"
    body += "add.cc.u32 %r0, %x0, %x2;\naddc.u32 %r1, %x1, %x3;\n"
    body += "sub.cc.u32 %r2, %x0, %x2;\nsubc.u32 %r3, %x1, %x3;\nst.global.v4.b32 [%o], {%r0, %r1, %r2, %r3};"
    x, y = 0x1_FFFFFFF0, 0x2_00000020
    got = struct.unpack("<QQ", run(body, registers, struct.pack("<QQ", x, y), 16))
    assert got == (x + y, (x - y) % 2**64)


def test_guards_loops_and_calls() -> None:
    text = (
        f"{HEAD}.func (.param .b32 r) twice(.param .b32 x)\n{{\n.reg .b32 %r1;\nld.param.b32 %r1, [x];\n"
        "add.s32 %r1, %r1, %r1;\nst.param.b32 [r], %r1;\nret;\n}\n"
    )
    registers = ".reg .b32 %x, %i;\n.reg .pred %p;"
    body = (
        "ld.global.b32 %x, [%a];\nmov.u32 %i, 0;\n$loop:\n"
        "{ .reg .b32 temp; .param .b32 p0; .param .b32 q0;\nst.param.b32 [p0], %x;\n"
        "call.uni (q0), twice, (p0);\nld.param.b32 %x, [q0]; }\n"
        "add.s32 %i, %i, 1;\nsetp.lt.s32 %p, %i, 3;\n@%p bra $loop;\n@!%p st.global.b32 [%o], %x;"
    )
    given, out = torch.tensor([5], dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    Kernel(text + module(body, registers).removeprefix(HEAD))(1, [given.data_ptr(), out.data_ptr()], threads=1)
    assert out.item() == 40


def test_constants_and_local_memory() -> None:
    registers = ".local .align 8 .b8 depot[16];\n.reg .b64 %l, %t;\n.reg .f64 %x;"
    body = (
        "mov.b64 %l, depot;\nld.const.f64 %x, [table+8];\nst.local.f64 [%l+8], %x;\nld.local.f64 %x, [%l+8];\n"
        "st.global.f64 [%o], %x;"
    )
    text = module(body, registers).replace(
        HEAD, f"{HEAD}.const .align 8 .f64 table[2] = {{0d3FF0000000000000, 0d4004000000000000}};\n"
    )
    out = torch.zeros(1, dtype=torch.float64)
    Kernel(text)(1, [out.data_ptr(), out.data_ptr()], threads=1)
    assert out.item() == 2.5


@pytest.mark.parametrize(
    "statement",
    [
        "match.any.sync.b32 %x, %x, -1;",  # an instruction
        "shfl.bfly.b32 %x, %x, 1, 31;",  # of threads that need not be there
        "redux.sync.or.b32 %x, %x, -1;",
        "add.rz.f32 %x, %x, %x;",  # a rounding
        "div.approx.f32 %x, %x, %x;",
        "ld.acquire.gpu.global.b32 %x, [%a];",  # an order that races would have to know
        "atom.global.cta.acq_rel.add.u32 %x, [%a], 1;",  # a scope that does not reach other blocks
        "atom.global.gpu.acq_rel.min.u32 %x, [%a], 1;",
        "fence.acq_rel.gpu;",
        "bar.sync 1;",
        "bar.red.popc.u32 %x, 0, %p;",
        "add.s32 %x, %y, 1;",  # a register that is not declared
        "and.pred %p, %x, %p;",  # a number as a predicate
        "mov.f32 %x, 0d3FF0000000000000;",
        "call.uni missing;",
        ".surf .b32 x;",
    ],
)
def test_what_is_unknown_is_refused(statement: str) -> None:
    with pytest.raises(Unknown):
        Kernel(module(statement, ".reg .b32 %x;\n.reg .pred %p;"))


def test_a_trap_is_a_fault() -> None:
    with pytest.raises(Fault, match="trap"):
        run("trap;", "", b"\0" * 8)


def test_arguments_are_counted_and_measured() -> None:
    kernel = Kernel(module(""))
    with pytest.raises(TypeError, match="1 arguments were given to a kernel of 2"):
        kernel(1, [0])
    with pytest.raises(TypeError, match="3 bytes"):
        kernel(1, [b"abc", 0])
