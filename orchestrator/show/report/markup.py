"""HTML that cannot be forgotten to escape: whatever is not made by `element` is text."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from orchestrator.base.escaping import html_text, visible

Figure: TypeAlias = dict[str, Any]
"""A figure as Plotly takes it: `data` and `layout`, plain JSON."""


class Markup(str):
    """A piece of HTML; any other string is text and is escaped where it is put in."""

    __slots__ = ()


VOID = ("img", "meta", "br", "input")


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """An element with its children in their order; text, numbers and attribute values are escaped.

    Underscores of attribute names are hyphens, one at the end is dropped (`class_`); None and False leave an attribute
    out, True gives it no value.
    """
    given = "".join(
        f" {name.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html_text(value)}"')
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    opened = f"<{tag}{given}>"
    return Markup(opened if tag in VOID else f"{opened}{joined(children)}</{tag}>")


def joined(children: Iterable[object]) -> Markup:
    """Pieces one after the other; None is nothing."""
    return Markup("".join(_piece(child) for child in children if child is not None))


def _piece(child: object) -> str:
    return child if isinstance(child, Markup) else html_text(child)


def raw(tag: str, content: str, **attributes: object) -> Markup:
    """A script or style element around text of this program or of `script_json`, in which nothing is escaped.

    Raises:
        ValueError: the content would end the element.
    """
    if f"</{tag}" in content.lower():
        raise ValueError(f"the content of a {tag} element ends it")
    opened = element(tag, **attributes).removesuffix(f"</{tag}>")
    return Markup(f"{opened}{content}</{tag}>")


def script_json(value: object) -> str:
    """JSON that is safe inside a script element, whatever texts it holds.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def chart(name: str, figure: Figure, *, describes: str, height: int = 380, wide: bool = False) -> Markup:
    """A place where the page draws a figure; `describes` is read out to those who cannot see it.

    A `wide` one keeps its width on small screens and is scrolled.
    """
    place = element("div", class_="chart", id=name, role="img", aria_label=describes, style=f"height:{height}px")
    data = raw("script", script_json(figure), type="application/json", data_figure=name)
    return element("div", place, data, class_="scroll wide" if wide else None)


def table(head: Sequence[object], rows: Iterable[Sequence[object]], *, caption: str = "") -> Markup:
    """A plain table; columns of numbers are aligned by the style sheet through `number`."""
    rows = list(rows)
    right = [
        isinstance(cell, Markup) and 'class="number"' in cell for cell in (rows[0] if rows else [None] * len(head))
    ]
    heads = [
        element("th", name, scope="col", class_="number" if numeric else None)
        for name, numeric in zip(head, right, strict=True)
    ]
    body = [element("tr", *(cell if _is_cell(cell) else element("td", cell) for cell in row)) for row in rows]
    above = element("caption", caption) if caption else None
    made = element("table", above, element("thead", element("tr", *heads)), element("tbody", *body))
    return element("div", made, class_="scroll")


def number(text: object) -> Markup:
    """A table cell that is aligned as numbers are."""
    return element("td", text, class_="number")


def _is_cell(value: object) -> bool:
    return isinstance(value, Markup) and value.startswith("<td")


def plotly_text(text: object) -> str:
    """Text for a figure: Plotly takes `<b>`, `<a>` and the like in it for markup."""
    return html.escape(visible(str(text)), quote=False)
