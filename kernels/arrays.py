"""Where the elements of a tensor are."""

import triton
import triton.language as tl


@triton.jit
def at(address, T: tl.constexpr, HINT: tl.constexpr):
    """Address as a pointer to T; HINT: bytes it is a multiple of, 0 if unknown.

    The cast is made here, freshly for each use: a hint marks the operation that made the pointer, so
    on a shared one it would reach code for unaligned tensors too.
    """
    pointer = address.to(tl.pointer_type(T))
    if HINT > 0:
        pointer = tl.multiple_of(pointer, HINT)
    return pointer
