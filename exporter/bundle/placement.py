"""A placement report as one self-contained page, in the style of a bundle's report."""

from __future__ import annotations

from exporter.bundle.report import page_environment
from exporter.placement.report import PlacementReport

__all__ = ["placement_html"]


def placement_html(name: str, report: PlacementReport) -> bytes:
    """The page; `name` is the model's. Names come from the model, which is untrusted: the templates escape all of them."""
    return page_environment().get_template("placement.html.j2").render(name=name, place=report).encode()
