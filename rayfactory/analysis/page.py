"""Pages that open offline: what goes into them, and how a figure is written there.

Everything from outside goes in as text: the templates escape it, the sample is JSON that a script puts into text nodes,
and the page forbids itself to load anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from rayfactory import __version__
from rayfactory.reports.figures import dollars
from rayfactory.shown import inert, shown

ASSETS = Path(__file__).parent / "assets"

COLUMNS = tuple[tuple[str, str, str], ...]
"""Of a table: field, title, and how its values are written (see `figure`)."""


def figure(value: Any, kind: str = "") -> str:
    """Return a value as the page shows it.

    Args:
        value: None where it is not known.
        kind: ``n`` a count, ``%`` a share, ``$`` US dollars, a digit: so many decimals; empty: a text.
    """
    if value is None:
        return "unknown"
    match kind:
        case "n":
            return f"{value:,}"
        case "%":
            return f"{value:.1%}"
        case "$":
            return dollars(value)
        case "1" | "2" | "3":
            return f"{value:,.{kind}f}"
    return str(value)


@cache
def templates() -> Any:
    """Return the environment of the templates."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # What is no markup comes from outside.
        finalize=lambda value: inert(value) if type(value) is str else value,
    )
    environment.filters["figure"] = figure
    return environment


def render(template: str, **values: Any) -> str:
    """Return a page."""
    page: str = templates().get_template(template).render(version=__version__, style=asset("style.css"), **values)
    return shown(page)


def chart(
    title: str, svg: str, rows: Sequence[Mapping[str, Any]], columns: COLUMNS, note: str = "", *, wide: bool = False
) -> dict[str, Any]:
    """Return a chart as the templates take it: a picture with the numbers that it shows."""
    return {"title": title, "svg": markup(svg), "rows": rows, "columns": columns, "note": note, "wide": wide}


def for_script(data: Any) -> Any:
    """Return data as the text of a script element that no parser leaves early."""
    return markup(json.dumps(all_inert(data)).replace("<", "\\u003c").replace("&", "\\u0026"))


def all_inert(data: Any) -> Any:
    """Return JSON-compatible values with every text in them `inert`."""
    if isinstance(data, str):
        return inert(data)
    if isinstance(data, Mapping):
        return {key: all_inert(value) for key, value in data.items()}
    return [all_inert(value) for value in data] if isinstance(data, (list, tuple)) else data


def asset(name: str) -> Any:
    """Return a file of ours as a page takes it."""
    return markup((ASSETS / name).read_text("utf-8"))


def markup(text: str) -> Any:
    """Return a text that the templates take as it is: nothing from outside may be in it unescaped."""
    from markupsafe import Markup

    return Markup(text)  # noqa: S704


def rounded(value: Any, digits: int = 6) -> Any:
    """Return JSON-compatible values with every fraction rounded, so that the file is as long as it tells."""
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    return round(value, digits) if isinstance(value, float) else value
