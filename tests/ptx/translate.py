"""PTX to C++: a function for each of PTX's, registers as variables, labels and gotos.

What the translator does not know raises :class:`~.syntax.Unknown`, so all that ran was covered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import arithmetic, bitwise, control, memory  # noqa: F401 (each fills in opcodes.HANDLERS)
from .opcodes import HANDLERS
from .syntax import (
    SIZES,
    Function,
    Instruction,
    Label,
    Module,
    Parameter,
    Registers,
    Scope,
    Unknown,
    Variable,
    identifier,
)
from .writer import Symbols, Writer, unsigned


@dataclass(frozen=True)
class Translation:
    """An entry in C++.

    Attributes:
        name: of the C++ function.
        source: of that function and all it calls.
        parameters: bytes of each.
        threads: of a block; 0 where the launch decides.
        shared: bytes of shared memory, dynamic ones not among them.
        opcodes: that occur.
    """

    name: str
    source: str
    parameters: tuple[int, ...]
    threads: int
    shared: int
    opcodes: frozenset[str]


def translate(module: Module, entry: str | None = None) -> Translation:
    """Translate one entry of a module.

    Args:
        module: from :func:`~.parse.parse`.
        entry: its name; not needed where there is only one.

    Raises:
        Unknown: something in it is not covered.
    """
    entries = [name for name, function in module.functions.items() if function.entry]
    if entry is None:
        if len(entries) != 1:
            raise ValueError(f"the module has {len(entries)} entries: name one of {entries[:5]}")
        (entry,) = entries
    symbols, shared = _symbols(module)
    writers: dict[str, Writer] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        if name not in writers:
            writers[name] = _function(module.functions[name], symbols)
            waiting += sorted(writers[name].called)
    used = set[str]().union(*(w.arrays for w in writers.values()))
    arrays = [v for v in module.variables if v.name in used]
    source = ['#include "values.h"', *(_array(v) for v in arrays), _constants(arrays)]
    source += [f"{_declaration(module.functions[name])};" for name in writers]
    source += [line for writer in writers.values() for line in writer.lines]
    function = module.functions[entry]
    return Translation(
        f"K_{identifier(entry)}",
        "\n".join(source) + "\n",
        tuple(p.size for p in function.parameters),
        function.threads,
        shared,
        frozenset[str]().union(*(w.opcodes for w in writers.values())),
    )


def _symbols(module: Module) -> tuple[Symbols, int]:
    """All names, and the size of shared memory; dynamic shared memory begins after that."""
    symbols = Symbols(functions={name for name, f in module.functions.items() if f.body is not None})
    used, dynamic = 0, []
    inside = [s for f in module.functions.values() for s in f.body or [] if isinstance(s, Variable)]
    for variable in [*module.variables, *inside]:
        if variable.space == "local":
            continue
        if variable.space != "shared":
            symbols.arrays.add(variable.name)
        elif variable.count is None:
            dynamic.append(variable.name)
        else:
            used = -(-used // variable.align) * variable.align
            symbols.shared[variable.name] = used
            used += variable.size
    used = -(-used // 16) * 16
    symbols.shared.update(dict.fromkeys(dynamic, used))
    return symbols, used


def _array(variable: Variable) -> str:
    values = variable.values.strip().strip("{}")
    if variable.kind in ("f32", "f64"):
        values = re.sub(r"0[fFdD]([0-9a-fA-F]+)", r"0x\1", values)
    size = SIZES[variable.kind]
    name = f"G_{identifier(variable.name)}[{variable.count}]"
    return f"alignas({max(variable.align, 1)}) static {unsigned(size)} {name} = {{{values}}};"


def _constants(arrays: list[Variable]) -> str:
    """Tells the runtime where the module's own memory is."""
    rows = [f"add((uint64_t)G_{identifier(v.name)}, sizeof G_{identifier(v.name)});" for v in arrays]
    return f'extern "C" void constants(void (*add)(uint64_t, uint64_t)) {{ {" ".join(rows)} }}'


def _declaration(function: Function) -> str:
    if function.entry:
        return f'extern "C" void K_{identifier(function.name)}(Thread& t, unsigned char** p)'
    places = [f"unsigned char* P_{identifier(p.name)}" for p in (*function.results, *function.parameters)]
    return f"static void F_{identifier(function.name)}({', '.join(['Thread& t', *places])})"


def _function(function: Function, symbols: Symbols) -> Writer:
    w = Writer(symbols)
    w.parameters.update(p.name for p in (*function.results, *function.parameters))
    w.lines.append(_declaration(function))
    depth = 0
    for statement in function.body or []:
        if isinstance(statement, Scope):
            depth += 1 if statement.opens else -1
            # a label may be the last in a scope, where C++ wants a statement
            w.line("{" if statement.opens else ";}")
            if statement.opens:
                w.scopes.append({})
            else:
                w.scopes.pop()
            if statement.opens and depth == 1:
                _prologue(w, function)
        elif isinstance(statement, Label):
            w.line(f"L_{identifier(statement.name)}: __attribute__((unused));")
        elif isinstance(statement, Registers):
            w.declare(statement.kind, statement.names)
        elif isinstance(statement, Parameter):
            w.parameters.add(statement.name)
            w.line(f"alignas(16) unsigned char P_{identifier(statement.name)}[{statement.size}];")
        elif isinstance(statement, Variable):
            if statement.space == "local":
                w.locals.add(statement.name)
                w.line(f"Local D_{identifier(statement.name)}(t, {statement.size});")
        else:
            _instruction(w, statement)
    return w


def _prologue(w: Writer, function: Function) -> None:
    w.line("uint32_t carry = 0; (void)carry; (void)t;")
    if function.entry:
        for i, parameter in enumerate(function.parameters):
            w.line(f"unsigned char* const P_{identifier(parameter.name)} = p[{i}];")


def _instruction(w: Writer, i: Instruction) -> None:
    handler = HANDLERS.get(i.opcode)
    if handler is None:
        raise Unknown(f"{i.place}: {i.text}")
    w.opcodes.add(".".join((i.opcode, *i.qualifiers)))
    if i.guard:
        w.line(f"if ({w.predicate(i.guard)}) {{")
    try:
        handler(w, i)
    except Unknown as error:
        raise Unknown(f"{i.place}: {error}") from error
    except (KeyError, ValueError, IndexError) as error:  # of a form that the handler did not expect
        raise Unknown(f"{i.place}: {i.text}") from error
    if i.guard:
        w.line("}")
