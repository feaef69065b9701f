"""A part of the page, and what its figures have in common."""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.show.report.markup import Markup, element, joined


class Section(NamedTuple):
    """A part of the page with an entry in its table of contents."""

    anchor: str
    title: str
    body: Markup


def paragraph(*pieces: object) -> Markup:
    """Running text."""
    return element("p", *pieces)


def hint(*pieces: object) -> Markup:
    """Text that explains a figure."""
    return element("p", *pieces, class_="hint")


def part(title: str, *pieces: object) -> Markup:
    """A part of a section under a heading of its own."""
    return element("section", element("h3", title), *pieces, class_="part")


def side_by_side(*pieces: object) -> Markup:
    """Parts beside each other where the screen is wide enough."""
    return element("div", *pieces, class_="grid")


def thirds(*pieces: object) -> Markup:
    """Small parts, three beside each other on a wide screen."""
    return element("div", *pieces, class_="grid thirds")


def empty(text: str) -> Markup:
    """Why there is nothing to see."""
    return element("p", text, class_="empty")


def block(*pieces: object) -> Markup:
    """Pieces one after the other."""
    return joined(pieces)
