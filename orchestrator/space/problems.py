"""What is wrong in a search space, and where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from orchestrator.space.vocabulary import hint
from trainer.formatting import KeyPath, one_line, spelled

MAX_SHOWN = 50  # problems printed before the rest is only counted


class SpaceError(ValueError):
    """A search space that cannot be used; `problems` holds one line for each thing to mend."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems: list[str] = list(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class Place(NamedTuple):
    """Where a value was written: a file with line and column from 1, or an override, which has no line."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Problems:
    """The problems of one space, collected so that all are reported at once."""

    def __init__(self, places: Mapping[KeyPath, Place], others: Sequence[str] = ()) -> None:
        self._places = places
        self._others = others
        self._lines: dict[KeyPath, tuple[Place, str]] = {}

    def add(self, path: KeyPath, what: str, *, wrong: str = "", known: Iterable[str] = ()) -> None:
        """Notes a problem, the first one only of each path, with the name in `known` that `wrong` was to be."""
        if path in self._lines:
            return
        meant = hint(wrong, known) if len(self._lines) < MAX_SHOWN else ""
        where = f"{spelled(path)}: " if path else ""
        place = self.place(path)
        self._lines[path] = place, one_line(f"{place}: {where}{what}{meant}")

    def place(self, path: KeyPath) -> Place:
        """Where the value at `path` was written, or the nearest mapping around it."""
        while path not in self._places:
            path = path[:-1]
        return self._places[path]

    def below(self, path: KeyPath) -> bool:
        """Whether there is a problem at `path` or inside it."""
        return any(known[: len(path)] == path for known in self._lines)

    def raise_if_any(self) -> None:
        """Raises all problems as one error, in the order of the files."""
        lines = [*self._others, *(line for _, line in sorted(self._lines.values()))]
        if len(lines) > MAX_SHOWN:
            lines[MAX_SHOWN:] = [f"… and {len(lines) - MAX_SHOWN} more problems"]
        if lines:
            raise SpaceError(*lines)
