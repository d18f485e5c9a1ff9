"""From the text of a PTX module to functions and statements."""

from __future__ import annotations

import bisect
import re

from .syntax import (
    SIZES,
    Function,
    Instruction,
    Label,
    Module,
    Parameter,
    Registers,
    Scope,
    Statement,
    Unknown,
    Variable,
    split_list,
)

_SPACE = re.compile(r"\s*")
_LABEL = re.compile(r"([\w$%]+):(?!:)")
_FUNCTION = re.compile(r"\.(entry|func)\s*(?:\(([^)]*)\))?\s*([\w$]+)\s*(?:\(([^)]*)\))?\s*")
_LIMIT = re.compile(r"\.(reqntid|maxntid|minnctapersm|maxnreg|noreturn)\b[^\n{;]*")
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<kind>\w+)\s+"
    r"(?:\.ptr\s+)?(?:\.(?:global|shared|local|const)\s+)?(?:\.align\s+\d+\s+)?(?P<name>[\w$]+)\s*(?:\[(?P<count>\d+)\])?$"
)
_VARIABLE = re.compile(
    r"\.(global|const|shared|local)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$%]+)\s*(?:\[(\d*)\])?\s*(?:=\s*(.*))?$",
    re.DOTALL,
)
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)$", re.DOTALL)
_OPERATION = re.compile(r"(?:@(!?[\w%$]+)\s+)?([\w.:]+)\s*(.*)$")


def parse(text: str) -> Module:
    """Read a module.

    Raises:
        Unknown: a directive is not covered.
    """
    return _Parser(text).module()


def _without_comments(text: str) -> str:
    """Lines stay where they are; names of files have slashes of their own."""
    text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL)
    lines = text.split("\n")
    return "\n".join(line if line.lstrip().startswith(".file") else line.split("//")[0] for line in lines)


def _parameters(text: str) -> list[Parameter]:
    return [_parameter(piece) for piece in split_list(text)]


def _parameter(text: str) -> Parameter:
    found = _PARAMETER.match(text)
    if found is None or found["kind"] not in SIZES:
        raise Unknown(f"parameter {text!r}")
    size = SIZES[found["kind"]]
    return Parameter(found["name"], size * int(found["count"] or 1), int(found["align"] or size))


def _variable(text: str) -> Variable:
    found = _VARIABLE.match(text)
    if found is None or found[3] not in SIZES:
        raise Unknown(f"variable {text[:80]!r}")
    space, align, kind, name, count, values = found.groups()
    elements = 1 if count is None else None if count == "" else int(count)
    return Variable(space, int(align or SIZES[kind]), kind, name, elements, values or "")


def _registers(text: str) -> Registers:
    found = _REGISTERS.match(text)
    if found is None or found[1] not in SIZES:
        raise Unknown(f"registers {text!r}")
    names: list[str] = []
    for item in split_list(found[2]):
        many = re.match(r"([\w%$]+)<(\d+)>$", item)
        names += [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [item]
    return Registers(found[1], tuple(names))


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = _without_comments(text)
        self.position = 0
        self.files = dict(re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', text, re.MULTILINE))
        self.lines = [0, *(found.end() for found in re.finditer("\n", self.text))]
        self.source = ""  # place in the source, from the last .loc

    def module(self) -> Module:
        module = Module()
        while self._skip_space():
            word = self._word()
            if word in (".version", ".target", ".address_size", ".file", ".loc"):
                self._until("\n")
            elif word == ".section":
                self._until("}")
            elif word in (".visible", ".extern", ".weak", ".common"):
                self.position += len(word)
            elif word in (".entry", ".func"):
                function = self._function()
                if function.body is not None or function.name not in module.functions:
                    module.functions[function.name] = function
            elif word in (".global", ".const", ".shared"):
                module.variables.append(_variable(self._until(";").strip()))
            elif word == ".pragma":
                self._until(";")
            else:
                raise Unknown(f"{self._place()}: {self.text[self.position : self.position + 60]!r}")
        return module

    def _skip_space(self) -> bool:
        self.position = _SPACE.match(self.text, self.position).end()  # type: ignore[union-attr]
        return self.position < len(self.text)

    def _word(self) -> str:
        found = re.compile(r"\.?\w*").match(self.text, self.position)
        return found[0] if found else ""

    def _until(self, end: str) -> str:
        stop = self.text.find(end, self.position)
        if stop < 0:
            raise Unknown(f"{self._place()}: {end!r} does not follow")
        taken = self.text[self.position : stop]
        self.position = stop + len(end)
        return taken

    def _place(self) -> str:
        line = f"ptx:{bisect.bisect_right(self.lines, self.position)}"
        return f"{line} {self.source}" if self.source else line

    def _function(self) -> Function:
        found = _FUNCTION.match(self.text, self.position)
        if found is None:
            raise Unknown(f"{self._place()}: function {self.text[self.position : self.position + 60]!r}")
        self.position = found.end()
        kind, results, name, given = found.groups()
        function = Function(name, kind == "entry", _parameters(results or ""), _parameters(given or ""))
        while self._skip_space():
            if self.text[self.position] == ";":
                self.position += 1
                return function
            if self.text[self.position] == "{":
                function.body = self._body()
                return function
            limit = _LIMIT.match(self.text, self.position)
            if limit is None:
                break
            if limit[1] in ("reqntid", "maxntid"):
                function.threads = int(re.findall(r"\d+", limit[0])[0])
            self.position = limit.end()
        raise Unknown(f"{self._place()}: directive {self.text[self.position : self.position + 60]!r}")

    def _body(self) -> list[Statement]:
        statements: list[Statement] = []
        depth = 0
        while self._skip_space():
            label = _LABEL.match(self.text, self.position)
            if self.text[self.position] in "{}":
                opens = self.text[self.position] == "{"
                self.position += 1
                depth += 1 if opens else -1
                statements.append(Scope(opens))
                if depth == 0:
                    return statements
            elif label:
                self.position = label.end()
                statements.append(Label(label[1]))
            elif self._word() == ".loc":
                _, file, line, *_ = self._until("\n").split()
                self.source = f"{self.files.get(file, file).rsplit('/', 1)[-1]}:{line}"
            elif self._word() == ".file":
                self._until("\n")
            else:
                place = self._place()
                statement = self._statement(re.sub(r"\s+", " ", self._until(";")).strip(), place)
                if statement is not None:
                    statements.append(statement)
        raise Unknown("the text ends in a function")

    def _statement(self, text: str, place: str) -> Statement | None:
        word = text.split(" ", 1)[0]
        if word in ("", ".pragma"):
            return None
        if word == ".reg":
            return _registers(text)
        if word == ".param":
            return _parameter(text)
        if word in (".local", ".shared"):
            return _variable(text)
        found = None if word.startswith(".") else _OPERATION.match(text)
        if found is None:
            raise Unknown(f"{place}: {text}")
        guard, operation, operands = found.groups()
        # "::" belongs to one part, as in shared::cta
        opcode, *qualifiers = (part.replace("\0", "::") for part in operation.replace("::", "\0").split("."))
        return Instruction(guard or "", opcode, tuple(qualifiers), tuple(split_list(operands)), place, text)
