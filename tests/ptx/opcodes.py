"""Which function translates which opcode."""

from __future__ import annotations

from collections.abc import Callable

from .syntax import Instruction
from .writer import Writer

Handler = Callable[[Writer, Instruction], None]
HANDLERS: dict[str, Handler] = {}


def translates(*opcodes: str) -> Callable[[Handler], Handler]:
    """Marks the function that translates these opcodes."""

    def register(handler: Handler) -> Handler:
        for opcode in opcodes:
            assert opcode not in HANDLERS
            HANDLERS[opcode] = handler
        return handler

    return register
