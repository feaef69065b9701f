"""How values, settings and pydantic's errors are put into words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys and list indices that lead to a value; a searched path such as `loss.osm_alpha` is one key."""

MAX_TEXT = 80  # characters of a user's text repeated in a message
NEAR = 0.65  # of difflib's ratio; 0.6, its own cutoff, takes 'device' for 'derived'

PLAIN_WORDS = {
    "missing": "is missing; add it",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text; put it in quotes",
    "dict_type": "must be a mapping of names to values",
    "model_type": "must be a mapping of names to values",
    "model_attributes_type": "must be a mapping of names to values",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "too_short": "needs at least {min_length} (has {actual_length})",
    "too_long": "takes at most {max_length}",
    "string_too_long": "must be at most {max_length} characters long",
    "string_pattern_mismatch": "must hold only letters, digits, '.', '_' and '-', a letter or digit first",
    "value_error": "{error}",
}
"""What pydantic's kinds of error are called here."""


def counted(count: int, one: str, several: str) -> str:
    """`1 query`, `2,000 queries`."""
    return f"{count:,} {one if count == 1 else several}"


def plain_words(error: ErrorDetails) -> str:
    """One of pydantic's errors as a half sentence with the value that was refused."""
    kind, context = error["type"], error.get("ctx", {})
    template = PLAIN_WORDS.get(kind)
    if template is None:
        what = error["msg"][:1].lower() + error["msg"][1:]
    else:
        what = template.format(**{name: _compact(value) for name, value in context.items()})
    if kind in ("missing", "value_error", "too_short", "too_long"):
        return what
    if kind == "literal_error":
        return f"{what} (is {shown(error['input'])}){_nearest_literal(error['input'], what)}"
    is_what = exactly(error["input"]) if kind == "int_type" else shown(error["input"])
    return f"{what} (is {is_what}){_with_point(error['input']) if kind in ('int_type', 'float_type') else ''}"


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """` - did you mean 'x'?` with the name nearest to `wrong`, or nothing where none is near."""
    names = [name for name in known if name != wrong]
    if not names or not 0 < len(wrong) <= MAX_TEXT:
        return ""
    nearest = max(names, key=lambda name: _likeness(wrong, name))
    return f" - did you mean {nearest!r}?" if _likeness(wrong, nearest) >= NEAR else ""


def shown(value: object) -> str:
    """A value as messages print it: compact numbers, short quoted text, YAML's own words."""
    if isinstance(value, str):
        return one_line(repr(shortened(value)))
    if value is None or isinstance(value, bool | int | float):
        return _compact(value)
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def exactly(value: object) -> str:
    """A value that is no whole number, as `shown`, but so that 4.0 does not look like one."""
    return repr(value) if isinstance(value, float) else shown(value)


def spelled(path: KeyPath) -> str:
    """`("start", 0, "loss.osm_alpha")` as `start[0].loss.osm_alpha`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key or repr(key)}" for key in path).removeprefix(".")
    return shortened(text, 2 * MAX_TEXT)


def located(error: ErrorDetails) -> str:
    """An error of pydantic in words, after the path that it is about unless that is the whole."""
    return (f"{spelled(error['loc'])}: " if error["loc"] else "") + plain_words(error)


def shortened(text: str, length: int = MAX_TEXT) -> str:
    """The text, cut off where it is longer."""
    return text if len(text) <= length else text[:length] + "…"


def listed(names: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def one_line(text: str) -> str:
    """The text with line breaks and control characters escaped, so that it prints as one line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException) -> str:
    """First line of an error's message, or the kind of error where it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _compact(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _with_point(value: object) -> str:
    """`; write 0.01` where the text `0,01` stands for a number."""
    is_decimal = isinstance(value, str) and re.fullmatch(r"[-+]?[0-9]+,[0-9]+", value)
    return f"; write {value.replace(',', '.')}" if is_decimal and isinstance(value, str) else ""


def _nearest_literal(value: object, expected: str) -> str:
    return did_you_mean(value, re.findall(r"'([^']*)'", expected)) if isinstance(value, str) else ""


def _likeness(wrong: str, name: str) -> float:
    """How alike two dotted names are, 1 or more where the last parts agree; the groups only break ties.

    `lr` is as good as `learning_rate`.
    """
    wrong_group, _, wrong_last = wrong.lower().rpartition(".")
    group, _, last = name.lower().rpartition(".")
    initials = "".join(word[:1] for word in last.split("_"))
    same = 1.0 if wrong_last == initials else difflib.SequenceMatcher(None, wrong_last, last).ratio()
    return same + 0.01 * difflib.SequenceMatcher(None, wrong_group, group).ratio()
