"""Templates to pages: Markdown, and HTML that needs nothing else."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.visible import visible
from reports import markdown


def render(template: str, **values: object) -> str:
    """The page that a template makes of ``values``; HTML and control characters are escaped."""
    environment = Environment(
        loader=PackageLoader("reports"),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = markdown.escape
    environment.filters["md_table"] = markdown.table
    return environment.get_template(template).render(**values)


def _finalize(value: object) -> object:
    if isinstance(value, Markup):
        return Markup(visible(value))  # escapes hold nothing that markup gives a meaning
    return visible(value) if isinstance(value, str) else value
