"""Plots of the report as inline SVG: no file, no script, no address, colours of the page (so light and dark both work)."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from exporter.bundle.facts import LayerRow

__all__ = ["activation_ranges", "layer_sizes", "layer_sqnr"]

# matplotlib is given these stand-ins; in the SVG they become the page's own colours.
_COLOURS: Final = {
    "#010203": "currentColor",
    "#010204": "var(--accent)",
    "#010205": "var(--bad)",
    "#010206": "var(--grid)",
    "#010207": "var(--accent2)",
}
_TEXT, _ACCENT, _BAD, _GRID, _ACCENT2 = _COLOURS

# Layers below this many dB are drawn in the colour of warnings: the noise is a tenth of the signal's amplitude.
_WARN_DB: Final = 20.0


def layer_sqnr(layers: Sequence[LayerRow]) -> str:
    """SQNR (dB) of every measured layer in graph order. Empty where nothing was measured."""
    rows = [(index, row) for index, row in enumerate(layers) if row.sqnr_db is not None and not math.isnan(row.sqnr_db)]
    finite = [row.sqnr_db for _, row in rows if row.sqnr_db is not None and math.isfinite(row.sqnr_db)]
    if not finite:
        return ""
    top = max(finite)

    def draw(axes: Axes) -> None:
        values = [min(row.sqnr_db or 0.0, top) for _, row in rows]
        colours = [_BAD if value < _WARN_DB else _ACCENT for value in values]
        axes.bar([index for index, _ in rows], values, width=0.72, color=colours)
        axes.set_xlabel("layer, in graph order")
        axes.set_ylabel("SQNR (dB)")
        axes.set_ylim(min(0.0, *values), top * 1.05 if top > 0 else 1.0)

    return _svg("sqnr", draw)


def activation_ranges(layers: Sequence[LayerRow]) -> str:
    """Range seen in calibration (bar) and range that the encoding holds (ticks), layer by layer, on a symmetric log scale."""
    rows = [(index, row) for index, row in enumerate(layers) if row.low is not None and row.high is not None]
    if not rows:
        return ""

    def draw(axes: Axes) -> None:
        where = [index for index, _ in rows]
        lows = [row.low or 0.0 for _, row in rows]
        highs = [row.high or 0.0 for _, row in rows]
        axes.bar(
            where,
            [b - a for a, b in zip(lows, highs, strict=True)],
            bottom=lows,
            width=0.72,
            color=_ACCENT,
            label="seen in calibration",
        )
        held = [(index, row) for index, row in rows if row.encoded_low is not None and row.encoded_high is not None]
        if held:
            for edge in ("encoded_low", "encoded_high"):
                axes.plot(
                    [index for index, _ in held],
                    [getattr(row, edge) for _, row in held],
                    linestyle="none",
                    marker="_",
                    markersize=5,
                    markeredgewidth=1.6,
                    color=_ACCENT2,
                    label="held by the encoding" if edge == "encoded_low" else None,
                )
        axes.set_yscale("symlog", linthresh=1.0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−", 1))  # the default writes TeX
        axes.set_xlabel("layer, in graph order")
        axes.set_ylabel("value")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), frameon=False, ncols=2, fontsize=9)

    return _svg("ranges", draw)


def layer_sizes(layers: Sequence[LayerRow]) -> str:
    """Share of weight bytes and of MACs, layer by layer: where the model's weight and work sit."""
    weights, macs = sum(row.weight_bytes for row in layers), sum(row.macs for row in layers)
    if not weights and not macs:
        return ""

    def draw(axes: Axes) -> None:
        where = range(len(layers))
        if weights:
            share = [100 * row.weight_bytes / weights for row in layers]
            axes.bar([x - 0.2 for x in where], share, width=0.4, color=_ACCENT, label="weights")
        if macs:
            share = [100 * row.macs / macs for row in layers]
            axes.bar([x + 0.2 for x in where], share, width=0.4, color=_ACCENT2, label="multiply-accumulates")
        axes.set_xlabel("layer, in graph order")
        axes.set_ylabel("share (%)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.18), frameon=False, ncols=2, fontsize=9)

    return _svg("sizes", draw)


def _svg(name: str, draw: Callable[[Axes], None]) -> str:
    """Draw onto one set of axes and return the `<svg>` element. `name` keeps the identifiers of several plots of a page apart."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _style(name):
        figure = Figure(figsize=(8.4, 2.9), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.margins(x=0.01)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inline(buffer.getvalue(), name)


def _style(name: str) -> AbstractContextManager[None]:
    import matplotlib as mpl

    settings: Any = {
        "svg.hashsalt": name,
        "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
        "text.parse_math": False,  # a `$` in a layer's name is a `$`
        "font.size": 10,
        "axes.unicode_minus": True,
        "xtick.bottom": False,
        "ytick.left": False,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _TEXT),
    }
    return mpl.rc_context(settings)


def _inline(text: str, name: str) -> str:
    """The `<svg>` element alone, in the page's colours, scaling with the page, its identifiers prefixed with `name`."""
    text = text[text.index("<svg") :]
    for stand_in, colour in _COLOURS.items():
        text = text.replace(stand_in, colour)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(id="|url\(#|xlink:href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([^;\"]*)px [^;\"]*", r"font-size: \1px", text)
    return text.strip()
