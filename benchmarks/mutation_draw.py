"""Which statements are mutated, and the same statements in other trees."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mutation_sites import Statement, statements_of


class Drawn(NamedTuple):
    """A mutation of a statement: the statement in each tree, and which of its mutations."""

    statements: tuple[Statement, ...]
    number: int

    @property
    def key(self) -> str:
        """The same in every tree."""
        first = self.statements[0]
        change = first.mutations[self.number]
        return f"{first.place}: {first.text} [{first.occurrence}] {self.number} {change.after}"


def draw(trees: Sequence[Path], count: int, seed: int) -> list[Drawn]:
    """`count` mutations of statements that all trees have; says which were not found."""
    packages: defaultdict[str, list[Statement]] = defaultdict(list)
    for statement in statements_of(trees[0]):
        packages[package_of(statement.file)].append(statement)
    others = [by_text(statements_of(tree)) for tree in trees[1:]]
    chosen = []
    for package, share in shares(trees[0], packages, count).items():
        candidates, taken = sorted(packages[package], key=lambda s: order_of(s, seed)), 0
        for statement in candidates:
            if taken == share:
                break
            found = [find(statement, texts) for texts in others]
            one = Drawn((statement, *(f for f in found if f)), number_of(statement, seed))
            if all(found):
                chosen.append(one)
                taken += 1
            else:
                print("not found:", described(one, 0))
    return chosen


def package_of(file: str) -> str:
    """The folder of the package that a file is in, or the package itself."""
    parts = Path(file).parts
    return parts[1] if len(parts) > 2 else parts[0]


def shares(tree: Path, packages: dict[str, list[Statement]], count: int) -> dict[str, int]:
    """How many of `count` mutations each package gets: by its lines, largest remainders first."""
    lines: Counter[str] = Counter()
    for path in (tree / "cmpolicy").rglob("*.py"):
        lines[package_of(str(path.relative_to(tree)))] += len(path.read_text().splitlines())
    exact = {package: count * lines[package] / sum(lines.values()) for package in sorted(packages)}
    whole = {package: int(share) for package, share in exact.items()}
    by_remainder = sorted(exact, key=lambda package: whole[package] - exact[package])
    for package in by_remainder[: count - sum(whole.values())]:
        whole[package] += 1
    return whole


def order_of(statement: Statement, seed: int) -> str:
    """A statement's place in the draw, which does not depend on the code around it."""
    name = f"{seed} {statement.file} {statement.place} {statement.text} {statement.occurrence}"
    return hashlib.sha256(name.encode()).hexdigest()


def number_of(statement: Statement, seed: int) -> int:
    """Which mutation of a statement is drawn: first a kind, then one of this kind."""
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for number, mutation in enumerate(statement.mutations):
        numbers[mutation.kind].append(number)
    value = int(order_of(statement, seed), 16)
    kind = sorted(numbers)[value % len(numbers)]
    return numbers[kind][value // len(numbers) % len(numbers[kind])]


def by_text(statements: list[Statement]) -> dict[str, list[Statement]]:
    """Statements of a tree, by their text."""
    texts: defaultdict[str, list[Statement]] = defaultdict(list)
    for statement in statements:
        texts[statement.text].append(statement)
    return texts


def find(wanted: Statement, texts: dict[str, list[Statement]]) -> Statement | None:
    """The same statement in another tree: in the place of the same name, else the only one."""
    same = [s for s in texts.get(wanted.text, []) if len(s.mutations) == len(wanted.mutations)]

    def alike(s: Statement) -> tuple[bool, ...]:
        return (
            s.place == wanted.place,
            s.place.rpartition(".")[2] == wanted.place.rpartition(".")[2],
            s.file == wanted.file,
            Path(s.file).name == Path(wanted.file).name,
        )

    best = max((alike(s) for s in same), default=None)
    found = [s for s in same if alike(s) == best]
    if best and any(best[:2]):
        files = {s.file for s in found}
        exact = [s for s in found if s.occurrence == wanted.occurrence]
        return exact[0] if len(files) == 1 and exact else None
    return same[0] if len(same) == 1 else None


def described(one: Drawn, position: int) -> str:
    """File, line, place, kind, before → after."""
    statement = one.statements[position]
    change = statement.mutations[one.number]
    before, after = (" ".join(t.split())[:90] for t in (change.before, change.after))
    return f"{statement.file}:{change.line} {statement.place} | {change.kind}: {before} → {after}"
