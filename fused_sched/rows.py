"""What a Monitor tells of a step, and where it goes."""

from __future__ import annotations

import csv
import io
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .optim.observing import ABSENT

NOTHING = float("nan")  # this very object: the step did not have the number


class Row(NamedTuple):
    """One optimizer step.

    Attributes:
        step: its number.
        lr: of each param group, as the update of this step used it.
        grad_norm: of all gradients, without GradScaler's scale and before clipping; NaN where the step measured none.
        skipped: whether it changed nothing.
        scale: GradScaler's, as the step was given it; NaN where it was given none.
    """

    step: int
    lr: tuple[float, ...]
    grad_norm: float
    skipped: bool
    scale: float


class ScalarWriter(Protocol):
    """Such as torch.utils.tensorboard.SummaryWriter."""

    def add_scalar(self, tag: str, value: float, step: int, /) -> Any:
        """Take a number."""


def row_of(words: Sequence[int]) -> Row:
    """A row as the device wrote it: number, lrs, norm, skipped, scale; see :class:`Observer`."""
    number, *lrs, norm, skipped, scale = words
    return Row(number, tuple(map(_float, lrs)), _float(norm), skipped != 0, _float(scale))


def _float(bits: int) -> float:
    if bits == ABSENT:
        return NOTHING
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])


def destination(to: Any) -> Callable[[list[Row]], Any]:
    """What takes rows, for the ``to`` of a :class:`Monitor`.

    Raises:
        TypeError, ValueError, OSError: it is nothing that rows can go to.
    """
    if isinstance(to, (str, os.PathLike)):
        return CsvFile(to)
    if callable(getattr(to, "add_scalar", None)):
        return Scalars(to)
    if callable(to):
        return to  # type: ignore[no-any-return]
    raise TypeError(
        f"to={to!r} must be a function of a list of rows, an object with add_scalar(tag, value, step) such as a "
        "SummaryWriter, the path of a .csv file, or None"
    )


class Scalars:
    """Gives rows to a writer, without the numbers that a step did not have."""

    def __init__(self, writer: ScalarWriter) -> None:
        self._writer = writer

    def __call__(self, rows: list[Row]) -> None:
        add = self._writer.add_scalar
        for row in rows:
            for i, lr in enumerate(row.lr):
                add(f"lr/{i}", lr, row.step)
            if row.grad_norm is not NOTHING:
                add("grad_norm", row.grad_norm, row.step)
            add("skipped", int(row.skipped), row.step)
            if row.scale is not NOTHING:
                add("scale", row.scale, row.step)


_FIXED = ["step", "grad_norm", "skipped", "scale"]  # columns before those of the groups


class CsvFile:
    """Adds rows to the end of a file; what the step did not have is an empty field.

    A file with columns for fewer groups is written anew when there are more.

    Args:
        path: ends in .csv; the file may be there already, if it has such rows or nothing.

    Raises:
        ValueError: it ends in something else, or the file has other columns.
        OSError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        if self._path.suffix.lower() != ".csv":
            raise ValueError(
                f"to={os.fspath(path)!r} must be a path that ends in .csv: name the file such as 'run.csv'"
            )
        with self._path.open("a", newline="", encoding="utf-8"):
            pass  # it can be written
        with self._path.open(newline="", encoding="utf-8") as file:
            columns = next(csv.reader(file), [])
        self._groups = len(columns) - len(_FIXED)
        if columns and columns != self._columns(self._groups):
            raise ValueError(
                f"to={os.fspath(path)!r} is a file with the columns {', '.join(columns)}, to which rows of a Monitor "
                f"cannot be added: they have {', '.join(self._columns(1))}. Give another name"
            )

    @staticmethod
    def _columns(groups: int) -> list[str]:
        return _FIXED + [f"lr/{i}" for i in range(groups)]

    def __call__(self, rows: list[Row]) -> None:
        groups = max((len(row.lr) for row in rows), default=0)
        if groups > self._groups:
            self._widen(groups)
        lines = [
            [row.step, _shown(row.grad_norm), int(row.skipped), _shown(row.scale), *map(repr, row.lr)] for row in rows
        ]
        with self._path.open("a", newline="", encoding="utf-8") as file:
            file.write(_text([line + [""] * (len(_FIXED) + self._groups - len(line)) for line in lines]))

    def _widen(self, groups: int) -> None:
        """Have columns for so many groups, in the lines that are there too."""
        with self._path.open(newline="", encoding="utf-8") as file:
            lines = [line + [""] * (len(_FIXED) + groups - len(line)) for line in [*csv.reader(file)][1:]]
        beside = self._path.with_name(self._path.name + ".new")
        beside.write_text(_text([self._columns(groups), *lines]), encoding="utf-8", newline="")
        beside.replace(self._path)
        self._groups = groups


def _shown(number: float) -> str:
    return "" if number is NOTHING else repr(number)


def _text(lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
