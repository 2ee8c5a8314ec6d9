"""Documents that hold many connections: one read for all of them."""

from __future__ import annotations

import weakref
from collections.abc import Mapping

from airflow_ext.exceptions import InvalidError
from airflow_ext.vault.cache import Document


class Bundles:
    """The parts of bundles, made once per document read."""

    def __init__(self) -> None:
        self._parts: weakref.WeakKeyDictionary[Document, dict[str, Document]] = weakref.WeakKeyDictionary()

    def part(self, bundle: Document, key: str) -> Document | None:
        """Return one entry as a document of its own, ``None`` when there is none.

        :raises InvalidError: If the entry is neither a URI nor an object of fields.
        """
        if key not in bundle.data:
            return None
        known = self._parts.setdefault(bundle, {})
        if key not in known:
            value = bundle.data[key]
            if isinstance(value, str):
                value = {"conn_uri": value}
            if not isinstance(value, Mapping):
                raise InvalidError(f"{key} in bundle {bundle.path} is neither a URI nor an object of fields")
            known[key] = Document(f"{bundle.path}#{key}", value, bundle.version)
        return known[key]
