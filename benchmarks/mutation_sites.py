"""Where a statement of the package can be mutated: small changes of meaning, found with `ast`.

Docstrings, annotations, decorators, texts, `raise` statements and what is logged are left alone.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NEGATED = {
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
SHIFTED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
OTHER_OPERATOR = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
PAIRS = "min max, amin amax, minimum maximum, argmin argmax, any all, mean sum, floor ceil"
OTHER_NAME = {
    name: other
    for pair in PAIRS.split(", ")
    for name, other in (pair.split(), reversed(pair.split()))
}
SAID = {"debug", "info", "warning", "error", "exception", "warn", "print", "overload"}
COMPOUND = (ast.If, ast.While, ast.For, ast.With)


class Mutation(NamedTuple):
    """A change of one node: the bytes from `start` to `end` of the file become `after`."""

    kind: str
    line: int
    start: int
    end: int
    before: str
    after: str


class Statement(NamedTuple):
    """A statement, or the head of a compound one, or the default of one parameter.

    Attributes:
        file: below the tree.
        place: qualified name of the function or class, empty for a module's own statements.
        text: normalised source; with `place` it names the statement wherever its file lies.
        occurrence: how many of that name precede it in the file.
        lines: (first, last) of those that run when it does: a default's are its function's.
        names: what it assigns outside a function.
    """

    file: str
    place: str
    text: str
    occurrence: int
    lines: tuple[int, int]
    names: frozenset[str]
    mutations: tuple[Mutation, ...]


def statements_of(tree: Path) -> list[Statement]:
    """Every statement of `tree`'s package that can be mutated."""
    files = sorted(path for path in (tree / "cmpolicy").rglob("*.py"))
    return [s for path in files for s in statements_in(str(path.relative_to(tree)), path)]


def statements_in(file: str, path: Path) -> Iterator[Statement]:
    """Those of one file."""
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    counts: Counter[tuple[str, str]] = Counter()
    for place, text, names, lines, changes in units(ast.parse(source).body, ""):
        mutations = tuple(
            Mutation(
                kind,
                old.lineno,
                starts[old.lineno - 1] + old.col_offset,
                starts[old.end_lineno - 1] + old.end_col_offset,  # type: ignore[operator]
                ast.unparse(old),
                ast.unparse(new) if isinstance(new, ast.stmt) else f"({ast.unparse(new)})",
            )
            for kind, old, new in changes
        )
        if mutations:
            occurrence = counts[place, text]
            counts[place, text] += 1
            yield Statement(file, place, text, occurrence, lines, names, mutations)


Change = tuple[str, ast.expr | ast.stmt, ast.AST]
Unit = tuple[str, str, frozenset[str], tuple[int, int], list[Change]]


def units(body: list[ast.stmt], place: str, *, in_function: bool = False) -> Iterator[Unit]:
    """Place, text, names, lines and changes of each statement of a block and of its blocks."""
    for node in body:
        lines = (node.lineno, node.end_lineno or node.lineno)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inside = f"{place}.{node.name}".lstrip(".")
            function = isinstance(node, ast.FunctionDef)
            if isinstance(node, ast.FunctionDef):
                for name, default in defaults(node.args):
                    changes = list(of_expression(default))
                    yield inside, f"{name}={ast.unparse(default)}", frozenset(), lines, changes
            yield from units(node.body, inside, in_function=function)
        elif isinstance(node, COMPOUND):
            if not place and "__name__" in ast.unparse(node).splitlines()[0]:
                continue
            head = copy.copy(node)
            head.body = [ast.Pass()]
            if isinstance(head, ast.If | ast.While | ast.For):
                head.orelse = []
            parts = [v for field, v in ast.iter_fields(node) if field not in ("body", "orelse")]
            changes = [c for part in parts for c in of_field(part)]
            if isinstance(node, ast.If | ast.While):
                changes += negated(node.test)
                lines = (node.lineno, node.test.end_lineno or node.lineno)
            else:
                lines = (node.lineno, node.lineno)
            yield place, ast.unparse(head).splitlines()[0], frozenset(), lines, changes
            for block in (node.body, getattr(node, "orelse", [])):
                yield from units(block, place, in_function=in_function)
        elif isinstance(node, ast.Try):
            blocks = [node.body, *(h.body for h in node.handlers), node.orelse, node.finalbody]
            for block in blocks:
                yield from units(block, place, in_function=in_function)
        else:
            names = frozenset() if in_function else names_of(node)
            yield place, ast.unparse(node), names, lines, list(of_statement(node))


def defaults(arguments: ast.arguments) -> Iterator[tuple[str, ast.expr]]:
    """Parameters that have defaults, with them."""
    positional = [*arguments.posonlyargs, *arguments.args]
    behind = positional[len(positional) - len(arguments.defaults) :]
    for argument, default in (
        *zip(behind, arguments.defaults, strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ):
        if default is not None:
            yield argument.arg, default


def names_of(node: ast.stmt) -> frozenset[str]:
    """What a statement assigns."""
    stored = (n for n in ast.walk(node) if isinstance(n, ast.Name | ast.Attribute))
    return frozenset(
        n.id if isinstance(n, ast.Name) else n.attr for n in stored if isinstance(n.ctx, ast.Store)
    )


def of_statement(node: ast.stmt) -> Iterator[Change]:
    """Changes of a simple statement."""
    value = getattr(node, "value", None)
    if isinstance(node, ast.Expr):
        if not isinstance(value, ast.Call) or name_of(value.func) in SAID:
            return
        yield "statement deleted", node, ast.Pass()
    elif isinstance(node, ast.AugAssign):
        yield "statement deleted", node, ast.Pass()
        if other := OTHER_OPERATOR.get(type(node.op)):
            yield "operator", node, ast.AugAssign(node.target, other(), node.value)
    elif isinstance(node, ast.Assign):
        if all(isinstance(target, ast.Subscript) for target in node.targets):
            yield "statement deleted", node, ast.Pass()
    elif isinstance(node, ast.Return):
        if value is not None and not (isinstance(value, ast.Constant) and value.value is None):
            yield "return value dropped", node, ast.Return(ast.Constant(None))
    elif not isinstance(node, ast.AnnAssign | ast.Assert):
        return
    for part in [node.test] if isinstance(node, ast.Assert) else [value]:
        yield from of_field(part)


def of_field(part: object) -> Iterator[Change]:
    """Changes in a field of a node."""
    if isinstance(part, list):
        for one in part:
            yield from of_field(one)
    elif isinstance(part, ast.expr):
        yield from of_expression(part)
    elif isinstance(part, ast.AST) and not isinstance(part, ast.stmt):
        for _, inner in ast.iter_fields(part):
            yield from of_field(inner)


def of_expression(node: ast.expr) -> Iterator[Change]:
    """Changes of an expression and of those in it."""
    if isinstance(node, ast.JoinedStr):
        return
    other: type[ast.AST] | None
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for kind, table in (("comparison negated", NEGATED), ("comparison shifted", SHIFTED)):
            if other := table.get(type(node.ops[0])):
                yield kind, node, ast.Compare(node.left, [other()], node.comparators)
    elif isinstance(node, ast.BinOp) and (other := OTHER_OPERATOR.get(type(node.op))):
        if not any(is_text(side) for side in (node.left, node.right)):
            yield "operator", node, ast.BinOp(node.left, other(), node.right)
    elif isinstance(node, ast.BoolOp) and (other := OTHER_OPERATOR.get(type(node.op))):
        yield "operator", node, ast.BoolOp(other(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "condition negated", node, node.operand
    elif isinstance(node, ast.IfExp):
        yield from negated(node.test)
    elif isinstance(node, ast.Constant):
        yield from of_constant(node)
    elif isinstance(node, ast.Call) and (name := OTHER_NAME.get(name_of(node.func) or "")):
        function = copy.copy(node.func)
        setattr(function, "id" if isinstance(function, ast.Name) else "attr", name)
        yield "other function", node.func, function
    elif isinstance(node, ast.Slice):
        for bound in (node.lower, node.upper):
            if bound is not None and not isinstance(bound, ast.Constant | ast.UnaryOp):
                yield "slice bound", bound, ast.BinOp(bound, ast.Add(), ast.Constant(1))
    for _, inner in ast.iter_fields(node):
        yield from of_field(inner)


def of_constant(node: ast.Constant) -> Iterator[Change]:
    """Negated, one more, or twice as large."""
    value = node.value
    if isinstance(value, bool):
        yield "boolean negated", node, ast.Constant(not value)
    elif isinstance(value, int):
        yield "constant", node, ast.Constant(value + 1)
    elif isinstance(value, float):
        yield "constant", node, ast.Constant(2 * value or 1.0)


def negated(test: ast.expr) -> list[Change]:
    """The negation of a condition whose own nodes have none."""
    if isinstance(test, ast.Compare | ast.UnaryOp | ast.BoolOp):
        return []
    return [("condition negated", test, ast.UnaryOp(ast.Not(), test))]


def is_text(node: ast.expr) -> bool:
    """A string, a list or a tuple as written."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | bytes)
    return isinstance(node, ast.JoinedStr | ast.List | ast.Tuple | ast.ListComp)


def name_of(function: ast.expr) -> str | None:
    """The last part of a called function's name."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else None
