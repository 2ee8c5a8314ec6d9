"""dbt's commands whose purpose is something to read: docs, lists, the freshness of sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow_ext.dbt.artifacts import MANIFEST
from airflow_ext.dbt.locations import place_of as checked_place
from airflow_ext.dbt.locations import write
from airflow_ext.dbt.selection import depends_on_a_run
from airflow_ext.exceptions import DbtFailedError, InvalidProjectError
from airflow_ext.hooks.dbt import SourceState, objects_of, summary_of, told_worst_first
from airflow_ext.operators._dbt_commands import DbtOnceOperator, refuse, templates, words_of

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

LINES = 1_000
"""Lines of ``dbt ls`` that fit an XCom."""

LsOutput = Literal["selector", "name", "path", "json"]
_OUTPUTS = ("selector", "name", "path", "json")
_NOT_ASSETS = ("compiled", "run")


class DbtSourceFreshnessOperator(DbtOnceOperator):
    """Run ``dbt source freshness``: fail if a source is older than its ``error_after``.

    The XCom is ``{"checked": 3, "counts": {"warn": 1, "pass": 2}, "sources": {ID: {"status", "max_loaded_at", "age"}}}``, age in
    seconds; of more than 100 sources the worst 100. A source without a freshness rule is not looked at, but a selection that
    has none with a rule is an error; to wait until sources are fresh there is :class:`DbtSourceFreshnessSensor`.

    Of the arguments of :class:`DbtOperator` the command takes ``select``, ``exclude``, ``selector``, ``vars``, ``threads``,
    ``indirect_selection``, ``fail_fast``, ``state``, ``warn_error``, ``args`` and ``on_warning``.

    :raises DbtFailedError: If a source is too old or could not be judged (the message names each with its age and its
        rule, or dbt's own words), or dbt did not come to an end.
    :raises InvalidProjectError: If something is selected, and no source of it has a freshness rule.
    """

    command: ClassVar[str] = "source freshness"
    template_fields: Sequence[str] = templates("source freshness")

    def execute(self, context: Context) -> dict[str, Any]:
        """Look at the sources."""
        found: dict[str, SourceState] = {}

        def on_node(message: Mapping[str, Any]) -> None:
            found[message["id"]] = SourceState.of(message)

        end = self.run_dbt(
            context,
            self.run_flags(context),
            on_node=on_node,
            before_cleanup=lambda end: self.keep(context, end),
        )
        for state in found.values():
            self.log.info("%s", state)
        if not end.success:
            bad = [
                state for state in told_worst_first(found.values()) if state.status not in ("pass", "warn")
            ]
            raise DbtFailedError(
                "\n".join([f"{len(bad)} sources are not fresh", *map(str, bad)]),
                failed=tuple(state.unique_id for state in bad),
            )
        if not found:
            self._refuse_nothing()
        return summary_of(found.values())

    def _refuse_nothing(self) -> None:
        """Refuse to call fresh what nobody looked at; only a selection by an earlier run may well be empty."""
        given = {"select": self.select, "exclude": self.exclude, "selector": self.selector}
        asked = {name: value for name, value in given.items() if value is not None}
        if asked and not (depends_on_a_run(self.select) or depends_on_a_run(self.exclude)):
            words = ", ".join(f"{name}={value!r}" for name, value in asked.items())
            raise InvalidProjectError(
                f"{words}: no source with a freshness rule is selected in {self.project.project_dir.name}, so none was "
                "checked; select sources as source:NAME or source:NAME.TABLE, and give them a rule"
            )


class DbtDocsGenerateOperator(DbtOnceOperator):
    """Run ``dbt docs generate`` and put the site in a place; the XCom is that place.

    ``index.html`` comes last, after ``manifest.json``, ``catalog.json`` and the folders of the project's ``asset-paths``.

    :param upload: Folder or object-store URL (templated), such as ``s3://conn_id@bucket/docs/shop``.
    :param static: Also make ``static_index.html``: the whole site in one file, which needs no web server.
    :param kwargs: Of :class:`DbtOperator` all but ``full_refresh``, ``empty``, ``sample``, ``store_failures`` and event times.
    :raises ValueError: If the place is empty or a URL with a password.
    :raises DbtFailedError: If a node does not compile (the message has dbt's own) or dbt did not come to an end;
        the site that is there then stays as it is.
    """

    command: ClassVar[str] = "docs generate"
    template_fields: Sequence[str] = templates("docs generate", "upload")

    def __init__(self, *, upload: str | Path, static: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        refuse(self.args, {"--static": "static"})
        self.upload = str(upload)
        self.static = static
        if "{{" not in self.upload and "{%" not in self.upload:
            self._place()

    def execute(self, context: Context) -> str:
        """Make the site."""
        place = self._place()
        flags = self.run_flags(context)
        if self.static:
            flags = replace(flags, args=(*flags.args, "--static"))
        self.run_once(context, flags, before_cleanup=lambda end: _put_site(end.target, place))
        self.log.info("The site is in %s", place)
        return place

    def _place(self) -> str:
        if not self.upload.strip():
            raise ValueError(f"upload={self.upload!r}: give a folder or a URL")
        return str(checked_place(self.upload, argument="upload")).rstrip("/")


class DbtLsOperator(DbtOnceOperator):
    """Run ``dbt ls``; the XCom is a list, empty if nothing is selected.

    :param resource_types: Kinds to list, such as ``["model", "source"]``; empty means all.
    :param exclude_resource_types: Kinds not to list.
    :param output_format: What is listed: ``selector`` (dbt's default, such as ``shop.orders``), ``name``, ``path``, or ``json`` for
        dictionaries with ``output_keys``.
    :param output_keys: Keys of the dictionaries, such as ``["unique_id", "config.materialized"]``.
    :param limit: Longest list that is no error; XCom is no place for large data.
    :param kwargs: Of :class:`DbtOperator` ``select``, ``exclude``, ``selector``, ``vars``, ``indirect_selection``, ``state``,
        ``warn_error``, ``args`` and ``on_warning``.
    :raises ValueError: If an argument is none of those allowed, or the list is longer than ``limit``.
    :raises DbtFailedError: If dbt did not come to an end.
    """

    command: ClassVar[str] = "ls"
    template_fields: Sequence[str] = templates("ls")

    def __init__(
        self,
        *,
        resource_types: Sequence[str] = (),
        exclude_resource_types: Sequence[str] = (),
        output_format: LsOutput = "selector",
        output_keys: Sequence[str] = (),
        limit: int = LINES,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        refuse(self.args, {"--output": "output_format", "--output-keys": "output_keys"})
        if output_format not in _OUTPUTS:
            raise ValueError(f"output_format={output_format!r}: give one of {', '.join(_OUTPUTS)}")
        keys = words_of("output_keys", output_keys)
        if (output_format == "json") != bool(keys):
            raise ValueError(
                f"output_format={output_format!r}, output_keys={list(keys)!r}: 'json' needs keys, such as ['unique_id'], "
                "as whole nodes do not fit an XCom; others take none"
            )
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"limit={limit!r}: give a number from 1")
        self.resource_types = words_of("resource_types", resource_types)
        self.exclude_resource_types = words_of("exclude_resource_types", exclude_resource_types)
        self.output_format = output_format
        self.output_keys = keys
        self.limit = limit

    def execute(self, context: Context) -> list[Any]:
        """List."""
        words = ["--output", self.output_format]
        if self.output_keys:
            words += ["--output-keys", " ".join(self.output_keys)]
        flags = self.run_flags(context)
        flags = replace(
            flags,
            args=(*flags.args, *words),
            resource_types=self.resource_types,
            exclude_resource_types=self.exclude_resource_types,
        )
        end = self.run_dbt(context, flags)
        if not end.success:
            raise DbtFailedError("dbt ls ended badly: see the log above")
        lines: list[Any] = list(end.result or [])
        if self.output_format == "json":
            lines = objects_of(lines)
        if len(lines) > self.limit:
            raise ValueError(
                f"dbt ls gave {len(lines)} lines, limit={self.limit}: narrow select= or resource_types=, or raise limit="
            )
        return lines


def _put_site(target: Path, place: str) -> None:
    files = [target / name for name in (MANIFEST, "catalog.json", "static_index.html")]
    for folder in sorted(target.iterdir()):
        if folder.is_dir() and folder.name not in _NOT_ASSETS:
            files += sorted(path for path in folder.rglob("*") if path.is_file())
    for path in (*files, target / "index.html"):
        if path.is_file():
            name = path.relative_to(target).as_posix()
            write(checked_place(f"{place}/{name}", argument="upload"), path.read_bytes())
