"""Tables that come from an HTTP API, as a DAG author writes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ext.sync.tables import SyncTable

PAGINATORS = ("auto", "single_page", "json_link", "header_link", "offset", "page_number", "cursor")


@dataclass(frozen=True, init=False)
class SyncApi(SyncTable):
    """One table read from an HTTP API that answers JSON, page by page.

    The source connection is of type ``http``: its URL is where ``path`` begins. Login and password log in, or in extra
    ``token`` (sent as bearer), or ``api_key`` with ``api_key_name`` (a header, ``X-API-Key`` unless said otherwise).
    Lists inside of rows become tables of their own, ``<name>__<key>``.

    :param name: Table in the destination, in snake case.
    :param path: Path below the connection's URL, such as ``/orders``.
    :param params: Query parameters. Secrets belong into the connection, not here.
    :param rows: Where in the answer the rows are, such as ``data.items``; ``None`` finds them. An answer without this
        place fails the run, one with an empty list or null there is one without rows.
    :param paginator: How pages follow each other: the name of one of dlt's paginators, or a dict with its name as
        ``type`` and its settings; ``auto`` finds out.
    :param mode: ``merge``, ``append``, ``replace`` or ``scd2``, as of :class:`SyncTable`.
    :param primary_key: Fields that identify a row, for ``merge`` and ``scd2``.
    :param cursor: Field whose last value the next run starts from.
    :param cursor_param: Query parameter that takes this value, or the window's start.
    :param cursor_end_param: Query parameter that takes the window's end.
    :param asset: Name of the asset, as of :class:`SyncTable`.
    :raises ValueError: If the arguments do not go together.
    """

    path: str
    params: tuple[tuple[str, Any], ...]
    rows: str | None
    paginator: str
    cursor_param: str | None
    cursor_end_param: str | None

    def __init__(
        self,
        name: str,
        *,
        path: str,
        params: Mapping[str, Any] | Iterable[Iterable[Any]] = (),
        rows: str | None = None,
        paginator: str | Mapping[str, Any] = "auto",
        mode: str = "merge",
        primary_key: Iterable[str] = (),
        cursor: str | None = None,
        cursor_param: str | None = None,
        cursor_end_param: str | None = None,
        asset: str | None = None,
    ) -> None:
        put = object.__setattr__
        pairs = params.items() if isinstance(params, Mapping) else [tuple(pair) for pair in params]
        put(self, "path", path)
        put(self, "params", tuple((key, value) for key, value in pairs))
        put(self, "rows", rows)
        put(self, "paginator", paginator if isinstance(paginator, str) else json.dumps(dict(paginator)))
        put(self, "cursor_param", cursor_param)
        put(self, "cursor_end_param", cursor_end_param)
        super().__init__(name, mode=mode, primary_key=primary_key, cursor=cursor, asset=asset)

    def _check(self) -> None:
        super()._check()
        where = f"table {self.name!r}"
        if not isinstance(self.path, str) or not self.path.strip() or "://" in self.path:
            raise ValueError(
                f"path={self.path!r} of {where}: give a path below the connection's URL, such as '/orders'"
            )
        if self.mode == "window":
            raise ValueError(
                f"mode='window' of {where}: of an API use mode='merge', with cursor= and cursor_param="
            )
        if (self.cursor_param or self.cursor_end_param) and not self.cursor:
            raise ValueError(
                f"cursor_param={self.cursor_param!r} of {where} needs cursor=, the field it is about"
            )
        kind = json.loads(self.paginator).get("type") if self.paginator.startswith("{") else self.paginator
        if kind not in PAGINATORS:
            raise ValueError(
                f"paginator={self.paginator!r} of {where}: the paginators are {', '.join(PAGINATORS)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        value = {**super().to_dict(), "kind": "api", "params": [list(pair) for pair in self.params]}
        if self.paginator.startswith("{"):
            value["paginator"] = json.loads(self.paginator)
        return {key: kept for key, kept in value.items() if key not in ("schema", "where", "columns")}
