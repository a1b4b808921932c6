"""Charts as SVG: Vega-Lite specifications, drawn by vl-convert without a browser or the network.

A chart has no background, and its colours of text and lines are attributes that a page's style sheet may override, so
that it follows the page into dark mode. What it shows stands beside it as a table, see `page`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rayfactory.analysis.page import all_inert

WIDTH = 300
"""Pixels of the plot of one chart: it is readable on a phone, and several stand beside each other elsewhere."""

HEIGHT = 170

COLOURS = ("#4878b0", "#d1742c", "#4f9d5d", "#b3506a", "#8468a8", "#8a7a5c")
"""Of several corpora, by turns; each can be told from white and from black."""

Rows = Sequence[Mapping[str, Any]]


def bars(rows: Rows, x: str, y: str, x_title: str, y_title: str, series: str = "") -> str:
    """Return bars side by side, in the order of the rows; with a series, some for each value of x."""
    encoding: dict[str, Any] = {
        "x": {
            "field": x,
            "type": "nominal",
            "sort": None,
            "title": x_title,
            "axis": {"labelAngle": 0, "labelOverlap": "greedy", "labelSeparation": 6},
        },
        "y": {"field": y, "type": "quantitative", "title": y_title, "axis": {"tickCount": 5}},
    }
    if series:
        encoding["xOffset"] = {"field": series, "type": "nominal", "sort": None}
        encoding["color"] = _colour(series)
    return _svg({"mark": {"type": "bar", "color": COLOURS[0]}, "encoding": encoding}, rows)


def lying_bars(rows: Rows, x: str, y: str, x_title: str) -> str:
    """Return bars below each other, in the order of the rows, each with its name."""
    encoding = {
        "y": {"field": y, "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 170}},
        "x": {"field": x, "type": "quantitative", "title": x_title, "axis": {"tickCount": 4}},
    }
    # A browser's letters may be wider than those that the names are measured with.
    padding = {"left": 24, "right": 8, "top": 5, "bottom": 5}
    mark = {"type": "bar", "color": COLOURS[0]}
    spec = {"mark": mark, "encoding": encoding, "height": {"step": 15}, "width": 170, "padding": padding}
    return _svg(spec, rows)


def curve(
    rows: Rows, x: str, y: str, x_title: str, y_title: str, series: str = "", band: tuple[str, str] | None = None
) -> str:
    """Return a line over a number, with a band around it where one is given."""
    encoding: dict[str, Any] = {
        "x": {"field": x, "type": "quantitative", "title": x_title, "axis": {"tickCount": 5, "format": "~s"}},
        "y": {
            "field": y, "type": "quantitative", "title": y_title, "scale": {"zero": False}, "axis": {"tickCount": 5},
        },
    }  # fmt: skip
    if series:
        encoding["color"] = _colour(series)
    line = {"mark": {"type": "line", "point": True, "color": COLOURS[0]}, "encoding": encoding}
    layers = [line]
    if band is not None:
        low, high = band
        area = encoding | {"y": encoding["y"] | {"field": low}, "y2": {"field": high}}
        layers.insert(0, {"mark": {"type": "area", "opacity": 0.25, "color": COLOURS[0]}, "encoding": area})
    return _svg({"layer": layers}, rows)


def growth(rows: Rows) -> str:
    """Return the paper's figure 8: the share of expansion and the similarity of the pool as it grows, by phase."""
    spans = [
        {"from": before["queries"] if before else 0, "to": row["queries"], "state": row["state"]}
        for before, row in zip([None, *rows], rows, strict=False)
    ]
    x = {
        "field": "queries",
        "type": "quantitative",
        "title": "queries in the pool",
        "axis": {"tickCount": 5, "format": "~s"},
    }
    phases = {
        "data": {"values": spans},
        "mark": {"type": "rect", "opacity": 0.16},
        "encoding": {
            "x": {"field": "from", "type": "quantitative"},
            "x2": {"field": "to"},
            "color": {
                "field": "state", "type": "nominal", "title": "phase",
                "scale": {"domain": ["GEN", "EXP"], "range": [COLOURS[2], COLOURS[1]]},
            },
        },
    }  # fmt: skip
    ratio = {
        "mark": {"type": "line", "point": True, "color": COLOURS[1], "strokeDash": [5, 3]},
        "encoding": {
            "x": x,
            "y": {
                "field": "expansion_ratio",
                "type": "quantitative",
                "title": "expansion ratio (dashed)",
                "scale": {"domain": [0, 1]},
                "axis": {"tickCount": 5},
            },
        },
    }
    known = {"transform": [{"filter": "isValid(datum.similarity)"}]}
    y = {"type": "quantitative", "title": "mean similarity", "scale": {"zero": False}, "axis": {"tickCount": 5}}
    band = {
        "mark": {"type": "area", "opacity": 0.25, "color": COLOURS[0]},
        "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}},
    }
    line = {
        "mark": {"type": "line", "point": True, "color": COLOURS[0]},
        "encoding": {"x": x, "y": y | {"field": "similarity"}},
    }
    spec = {
        "layer": [phases, ratio, known | {"layer": [band, line]}],
        "resolve": {"scale": {"y": "independent"}},
        "width": 2 * WIDTH,
    }
    return _svg(spec, rows)


def _colour(series: str) -> dict[str, Any]:
    return {
        "field": series, "type": "nominal", "sort": None, "title": None, "scale": {"range": list(COLOURS)},
        "legend": {"orient": "bottom", "columns": 2, "labelLimit": 140},
    }  # fmt: skip


def _svg(spec: dict[str, Any], rows: Rows) -> str:
    import vl_convert

    whole = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": WIDTH,
        "height": HEIGHT,
        "background": None,
        # A control character would end this process: the drawing of texts is XML.
        "data": {"values": all_inert(rows)},
        "config": {
            "font": "sans-serif",
            "view": {"stroke": None},
            "axis": {"labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": "normal", "gridOpacity": 0.4},
            "legend": {"labelFontSize": 11, "titleFontSize": 11, "orient": "bottom"},
        },
        **spec,
    }
    drawn: str = vl_convert.vegalite_to_svg(json.dumps(whole), vl_version="6.4")
    return drawn
