"""Expressions over searched settings: arithmetic for derived settings, linear bounds for constraints."""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from orchestrator.space.parameters import Value
from trainer.formatting import shown

MAX_LENGTH = 300  # characters; no expression in a space comes near
MAX_DEPTH = 20  # brackets inside brackets; keeps the parser's recursion small
TOLERANCE = 1e-9  # by which rounding may carry a point over a bound, relative to the bound's terms

TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r"|(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)"
    r"|(?P<sign><=|>=|==|[-+*/(),<>=])"
    r"|(?P<end>$))",
    re.ASCII,
)
FUNCTIONS: Mapping[str, Callable[..., float]] = {"min": min, "max": max, "round": round, "floor": math.floor}
LEAST_TERMS = {"min": 2, "max": 2, "round": 1, "floor": 1}
MOST_TERMS = {"round": 1, "floor": 1}
OPERATIONS: Mapping[str, Callable[..., float]] = {
    **FUNCTIONS,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "negative": operator.neg,
}


class ExpressionError(ValueError):
    """An expression that cannot be read, is not linear where it must be, or has no value at a point."""


class Operation(NamedTuple):
    """An operation of `OPERATIONS` on terms."""

    name: str
    terms: tuple[Term, ...]


Term: TypeAlias = "int | float | str | Operation"
"""A number, the path of a searched setting, or an operation."""


class Expression(NamedTuple):
    """Arithmetic over the paths of searched settings."""

    text: str
    """As it was written."""
    term: Term
    """The parsed text."""

    def paths(self) -> list[str]:
        """The settings that it names, each once, in the order of the text."""
        return list(dict.fromkeys(_paths(self.term)))

    def at(self, values: Mapping[str, float]) -> float:
        """The value for these values of the settings; always finite.

        Raises:
            ExpressionError: a division by zero, or a value beyond all floating-point numbers.
        """
        try:
            value = _value(self.term, values)
        except ZeroDivisionError:
            raise ExpressionError(f"{self.text} divides by 0") from None
        except (OverflowError, ValueError):  # floor and round of an infinity or of what two of them leave
            raise ExpressionError(f"{self.text} is too large") from None
        if not math.isfinite(value):
            raise ExpressionError(f"{self.text} is too large")
        return value


class LinearConstraint(NamedTuple):
    """A linear constraint: the weighted sum of some settings is at most `limit`."""

    text: str
    """As it was written."""
    weights: dict[str, float]
    """Weight of each setting, none of them 0."""
    limit: float
    """Largest value of the sum."""

    def holds(self, values: Mapping[str, float]) -> bool:
        """Whether the settings satisfy it, up to rounding."""
        terms = [weight * values[path] for path, weight in self.weights.items()]
        return sum(terms) <= self.limit + TOLERANCE * max(1.0, abs(self.limit), *map(abs, terms))

    def standard_form(self) -> str:
        """As `0.5 * a - 1.0 * b <= 2.0`, numbers exact: the form that Ax reads."""
        first, *others = [f"{weight!r} * {path}" for path, weight in self.weights.items()]
        signed = (f" - {text[1:]}" if text.startswith("-") else f" + {text}" for text in others)
        return f"{first}{''.join(signed)} <= {self.limit!r}"


@functools.cache
def parse_expression(text: str) -> Expression:
    """The expression in a text: numbers, paths, + - * / ( ), min, max, round (half to even) and floor.

    Raises:
        ExpressionError: the text is no expression.
    """
    parser = _Parser(text)
    term = parser.sum()
    if parser.sign in ("<=", ">=", "<", ">", "=", "=="):
        raise ExpressionError(f"{shown(parser.sign)} compares; write one under 'constraints'")
    parser.expect_end()
    return Expression(text, term)


@functools.cache
def parse_constraint(text: str) -> LinearConstraint:
    """The linear constraint in a text such as `loss.a + 2 * loss.b <= 1`; settings may stand on both sides.

    Raises:
        ExpressionError: the text compares nothing, is not linear, or names no setting.
    """
    parser = _Parser(text)
    left, sign = parser.sum(), parser.sign
    if sign not in ("<=", ">="):
        raise ExpressionError(_not_compared(sign))
    parser.step()
    right = parser.sum()
    parser.expect_end()
    smaller, larger = (left, right) if sign == "<=" else (right, left)
    difference = _linear(Operation("-", (smaller, larger)))
    weights = {path: weight for path, weight in difference.items() if path and weight}
    numbers = [*weights.values(), difference.get("", 0.0)]
    if not weights:
        raise ExpressionError("names no searched setting, or the settings cancel out")
    if not all(map(math.isfinite, numbers)):
        raise ExpressionError("has numbers that are too large")
    return LinearConstraint(text, weights, 0.0 - difference.get("", 0.0))


def satisfies(values: Mapping[str, Value], constraints: Sequence[LinearConstraint]) -> bool:
    """Whether the values satisfy all constraints."""
    return all(each.holds({path: float(values[path]) for path in each.weights}) for each in constraints)


def _not_compared(sign: str) -> str:
    if sign in ("<", ">"):
        return f"write {sign}= instead of {sign}"
    if sign in ("=", "=="):
        return "an equation leaves nothing to search; write one of the settings under 'derived'"
    return "must compare two sums with <= or >="


class _Parser:
    """Parses by recursive descent; `kind`, `token` and `sign` describe the next token."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise ExpressionError(f"is longer than {MAX_LENGTH} characters; shorten it")
        self._text = text
        self._end = 0
        self._depth = 0
        self.kind, self.token = "end", ""
        self.step()

    @property
    def sign(self) -> str:
        return self.token if self.kind == "sign" else ""

    def step(self) -> None:
        found = TOKEN.match(self._text, self._end)
        if found is None:
            wrong = self._text[self._end :].lstrip()[0]
            raise ExpressionError(f"{shown(wrong)} has no meaning in an expression; remove it")
        self._end = found.end()
        self.kind = str(found.lastgroup)
        self.token = found[self.kind]

    def expect_end(self) -> None:
        if self.kind != "end":
            raise ExpressionError(f"{shown(self.token)} does not fit here; put an operator before it, or remove it")

    def sum(self) -> Term:
        term = self._product()
        while (sign := self.sign) in ("+", "-"):
            self.step()
            term = Operation(sign, (term, self._product()))
        return term

    def _product(self) -> Term:
        term = self._factor()
        while (sign := self.sign) in ("*", "/"):
            self.step()
            term = Operation(sign, (term, self._factor()))
        return term

    def _factor(self) -> Term:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError(f"is nested deeper than {MAX_DEPTH} levels; simplify it")
        term = self._nested()
        self._depth -= 1
        return term

    def _nested(self) -> Term:
        kind, token = self.kind, self.token
        self.step()
        if kind == "number":
            return int(token) if token.isdigit() else float(token)
        if kind == "name":
            return self._call(token) if self.sign == "(" else token
        if token == "-":
            return Operation("negative", (self._factor(),))
        if token == "(":
            term = self.sum()
            self._close()
            return term
        where = "at the end" if kind == "end" else f"before {shown(token)}"
        raise ExpressionError(f"a number or a setting is missing {where}; add it")

    def _call(self, name: str) -> Term:
        if name not in FUNCTIONS:
            raise ExpressionError(f"there is no function {shown(name)}, only {', '.join(FUNCTIONS)}")
        self.step()
        terms = [self.sum()]
        while self.sign == ",":
            self.step()
            terms.append(self.sum())
        self._close()
        if not LEAST_TERMS[name] <= len(terms) <= MOST_TERMS.get(name, MAX_LENGTH):
            takes = "one value" if name in MOST_TERMS else "at least two values"
            raise ExpressionError(f"{name} takes {takes} (has {len(terms)})")
        return Operation(name, tuple(terms))

    def _close(self) -> None:
        if self.sign != ")":
            raise ExpressionError("a bracket is not closed; add ')'")
        self.step()


def _paths(term: Term) -> Iterator[str]:
    if isinstance(term, str):
        yield term
    elif isinstance(term, Operation):
        for inner in term.terms:
            yield from _paths(inner)


def _value(term: Term, values: Mapping[str, float]) -> float:
    if isinstance(term, str):
        return values[term]
    if isinstance(term, Operation):
        return OPERATIONS[term.name](*(_value(inner, values) for inner in term.terms))
    return term


def _linear(term: Term) -> dict[str, float]:
    """The weight of each setting, and under the empty path the constant."""
    if isinstance(term, str):
        return {term: 1.0}
    if not isinstance(term, Operation):
        return {"": float(term)}
    parts = [_linear(inner) for inner in term.terms]
    if term.name == "negative":
        return _scaled(parts[0], -1.0)
    if term.name in ("+", "-"):
        return _added(parts[0], _scaled(parts[1], 1.0 if term.name == "+" else -1.0))
    if all(_is_number(part) for part in parts):
        return {"": _number(term.name, parts)}
    if term.name == "*" and any(_is_number(part) for part in parts):
        number, other = parts if _is_number(parts[0]) else reversed(parts)
        return _scaled(other, number[""])
    if term.name == "/" and _is_number(parts[1]):
        return _scaled(parts[0], _number("/", [{"": 1.0}, parts[1]]))
    raise ExpressionError(_not_linear(term.name))


def _not_linear(operation: str) -> str:
    what = {"*": "multiplies settings with each other", "/": "divides by a setting"}
    return f"{what.get(operation, f'takes the {operation} of a setting')}; only weighted sums can be bounded"


def _is_number(linear: Mapping[str, float]) -> bool:
    return set(linear) == {""}


def _number(operation: str, parts: Sequence[Mapping[str, float]]) -> float:
    try:
        return float(OPERATIONS[operation](*(part[""] for part in parts)))
    except ZeroDivisionError:
        raise ExpressionError("divides by 0") from None
    except (OverflowError, ValueError):  # floor and round of an infinity or of a NaN
        raise ExpressionError("has numbers that are too large") from None


def _scaled(linear: Mapping[str, float], factor: float) -> dict[str, float]:
    return {path: factor * weight for path, weight in linear.items()}


def _added(left: Mapping[str, float], right: Mapping[str, float]) -> dict[str, float]:
    return {path: left.get(path, 0.0) + right.get(path, 0.0) for path in {**left, **right}}
