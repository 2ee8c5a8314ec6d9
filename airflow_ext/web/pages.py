"""Turn a template and values into an answer that a browser shows and nothing else."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import Request  # noqa: TID253  # only the first request imports this
from fastapi.responses import HTMLResponse  # noqa: TID253
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from airflow_ext.web.formats import FILTERS


def airflow_root(request: Request) -> str:
    """Return the path at which this Airflow is, as the browser sees it, ending with ``/``."""
    return request.base_url.path


def render(template: str, request: Request, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page.

    :param template: File in ``templates``.
    :param values: What the template shows; all of it is escaped.
    """
    page = _templates().get_template(template)
    text = page.render(root=airflow_root(request), style=Markup(_style()), **values)  # noqa: S704  # our own file
    return HTMLResponse(text, status_code=status, headers=_headers())


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("airflow_ext.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment


@cache
def _style() -> str:
    return (files("airflow_ext.web") / "templates" / "style.css").read_text("utf-8")


@cache
def _headers() -> dict[str, str]:
    # The one style sheet is in the page itself, so that no route is needed for it.
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'self'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
