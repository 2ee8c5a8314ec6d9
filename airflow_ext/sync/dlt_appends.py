"""Which appended tables an earlier try has loaded, so that its retry does not append them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_ext.sync.dlt_job import DltJob, request_key


class AppendLog:
    """Remembers, beside the pipeline's folder, what is asked for until it is loaded.

    Appending is the one mode that a second load does not repair. Tables that continue from their last
    cursor value need no memory: what a finished package holds lies before that value.

    :param job: The job of this try.
    """

    def __init__(self, job: DltJob) -> None:
        self._file = job.folder / f"{job.name}.appends.json"
        self._asked = {
            table.name: key for table in job.tables if (key := request_key(job, table)) is not None
        }

    def note(self, tables: Mapping[str, int | None]) -> None:
        """Record that a package of an earlier try has been loaded.

        :param tables: Rows per table of that package; ``None`` where they are not known.
        """
        kept = self._read()
        kept["loaded"].update({name: rows for name, rows in tables.items() if name in kept["asked"]})
        self._write(kept)

    def loading(self, load_id: str, tables: Mapping[str, int | None]) -> None:
        """Record what a package holds before it is loaded: a try may die when that is done and before it has said so.

        :param load_id: The package.
        :param tables: Rows per table of it.
        """
        kept = self._read()
        kept["packages"] = {load_id: dict(tables)}
        self._write(kept)

    def packages(self) -> Mapping[str, Mapping[str, int | None]]:
        """Return what was recorded by :meth:`loading` and may have been loaded, by package."""
        return self._read().get("packages") or {}

    def loaded(self) -> dict[str, int | None]:
        """Return the tables of this very request that an earlier try has loaded, with their rows."""
        kept = self._read()
        return {
            name: rows
            for name, rows in kept["loaded"].items()
            if name in self._asked and kept["asked"].get(name) == self._asked[name]
        }

    def begin(self) -> None:
        """Record what is asked for; packages that are pending from now on belong to it."""
        self._write({"asked": self._asked, "loaded": self.loaded()})

    def end(self) -> None:
        """Forget the request: all of it is loaded."""
        self._file.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            kept: dict[str, Any] = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return {"asked": {}, "loaded": {}}
        return kept

    def _write(self, kept: Mapping[str, Any]) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(kept))
        new.replace(self._file)
