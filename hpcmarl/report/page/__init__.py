"""Makes the HTML file of a report from its sections. The file needs no other file and no network.

A content security policy in the file forbids the browser to load anything. Texts are escaped by Jinja, and
the data of the plots is JSON without characters that could end its script element.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hpcmarl import __version__
from hpcmarl.errors import MissingPackageError
from hpcmarl.report.blocks import Plot, Section

GENERATOR = "hpcmarl report"
FOLDER = Path(__file__).parent


def page(
    title: str,
    facts: str,
    sections: Sequence[Section],
    data: Mapping[str, Any],
    *,
    refresh: float | None = None,
) -> str:
    """Return the HTML of a report.

    Args:
        title: Its title.
        facts: A line below the title.
        sections: Its sections.
        data: `runs`, `groups` and `axis_titles` for report.js.
        refresh: Seconds after which the browser reads the file again; None: never.

    Raises:
        MissingPackageError: If plotly is not installed.
    """
    plots: dict[str, Any] = {}
    for section in sections:
        for part in section.parts:
            if isinstance(part, Plot):
                part.plot_id = f"plot-{len(plots)}"
                plots[part.plot_id] = part.spec
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.j2").render(
        title=title,
        facts=facts,
        sections=sections,
        axes=data["axis_titles"],
        generator=f"{GENERATOR} {__version__}",
        refresh=None if refresh is None else max(1, round(refresh)),
        style=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        script=Markup((FOLDER / "report.js").read_text(encoding="utf-8")),
        plotly=Markup(plotly_script()),
        data=Markup(json_for_script({**data, "plots": plots})),
    )


def json_for_script(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def plotly_script() -> str:
    """Return the plotting library, which becomes a part of the file.

    Raises:
        MissingPackageError: If plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingPackageError(
            "plotly is not installed, which the report needs: pip install 'hpcmarl[report]'"
        ) from error
    return str(get_plotlyjs())
