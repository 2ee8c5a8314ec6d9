"""dbt's commands that do something to the warehouse or the project, one operator each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_ext.dbt.artifacts import keep_run, place_of
from airflow_ext.dbt.flags import KNOWN, DbtFlags
from airflow_ext.dbt.results import NodeBoard
from airflow_ext.dbt.runner import DbtEnd, DbtRun
from airflow_ext.exceptions import DbtFailedError
from airflow_ext.hooks.dbt import settings_of
from airflow_ext.operators._dbt_base import DbtOperator, no_node, surviving_lost_artifacts
from airflow_ext.operators._dbt_build import DbtNodesOperator

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

_MACRO_FAILED = "Encountered an error while running operation:"


def templates(command: str, *more: str) -> tuple[str, ...]:
    """Return the shared template fields that a command takes, and more.

    :param command: dbt's command.
    :param more: Fields of its own.
    """
    shared = (name for name in DbtOperator.template_fields if name not in KNOWN or command in KNOWN[name])
    return (*shared, *more)


class _BuiltOnlyOperator(DbtNodesOperator):
    """A command that runs no tests."""

    def __init__(self, **kwargs: Any) -> None:
        if "test_retries" in kwargs:
            raise ValueError(
                f"test_retries={kwargs['test_retries']!r}: dbt {self.command} runs no tests; it is for build, test"
            )
        super().__init__(**kwargs)


class DbtRunOperator(_BuiltOnlyOperator):
    """Run ``dbt run``: models without their tests; a retry runs only what failed or was not reached.

    All arguments are those of :class:`DbtOperator` and :class:`DbtNodesOperator` but ``test_retries``.

    :raises DbtFailedError: If a model or a hook failed (the message has dbt's own) or dbt did not come to an end.
    """

    command: ClassVar[str] = "run"
    template_fields: Sequence[str] = templates("run")


class DbtTestOperator(DbtNodesOperator):
    """Run ``dbt test``: data and unit tests; a retry runs only those that failed or were not reached.

    All arguments are those of :class:`DbtOperator` and :class:`DbtNodesOperator`. The command takes no
    ``full_refresh``, ``empty``, ``sample`` and event times.

    :raises DbtFailedError: If a test failed (the message has dbt's own) or dbt did not come to an end.
    """

    command: ClassVar[str] = "test"
    template_fields: Sequence[str] = templates("test")


class DbtSeedOperator(_BuiltOnlyOperator):
    """Run ``dbt seed``: load the project's CSV files; a retry loads only those that are still missing.

    All arguments are those of :class:`DbtOperator` and :class:`DbtNodesOperator` but ``test_retries``. The command takes no
    ``empty``, ``sample``, ``store_failures`` and event times.

    :raises DbtFailedError: If a seed failed (the message has dbt's own) or dbt did not come to an end.
    """

    command: ClassVar[str] = "seed"
    template_fields: Sequence[str] = templates("seed")


class DbtSnapshotOperator(_BuiltOnlyOperator):
    """Run ``dbt snapshot``; a retry takes only the snapshots that failed or were not reached.

    All arguments are those of :class:`DbtOperator` and :class:`DbtNodesOperator` but ``test_retries``. The command takes no
    ``full_refresh``, ``sample``, ``store_failures`` and event times.

    :raises DbtFailedError: If a snapshot failed (the message has dbt's own) or dbt did not come to an end.
    """

    command: ClassVar[str] = "snapshot"
    template_fields: Sequence[str] = templates("snapshot")


class DbtOnceOperator(DbtOperator):
    """A command of which a retry runs everything again."""

    def run_once(
        self,
        context: Context,
        flags: DbtFlags,
        *,
        before_cleanup: Callable[[DbtEnd], None] = lambda _: None,
    ) -> NodeBoard:
        """Run dbt, keep what it leaves if the project says where, and return its nodes.

        :param before_cleanup: Called with an end that went well while the run's folder still exists.
        :raises DbtFailedError: If dbt did not come to an end, or not to a good one.
        """
        board = NodeBoard(None)

        def at_end(end: DbtEnd) -> None:
            self.keep(context, end)
            if end.success:
                before_cleanup(end)

        end = self.run_dbt(context, flags, on_node=board.add, before_cleanup=at_end)
        if not end.success:
            failed = board.failed()
            raise DbtFailedError(
                f"dbt {self.command}: {len(failed)} failed: {', '.join(failed)}\n{board.explain(failed)}",
                failed=tuple(failed),
            )
        return board

    def keep(self, context: Context, end: DbtEnd) -> None:
        """Keep the run's results and manifest where the project says, if it does."""
        if self.project.artifacts is None:
            return
        place = place_of(
            str(self.project.artifacts),
            dag_id=self.dag_id,
            run_id=str(context["dag_run"].run_id),
            task_id=self.task_id,
            map_index=getattr(context["ti"], "map_index", -1),
        )
        # Compiling is for what is kept, and doing it again costs nothing.
        with nullcontext() if self.command == "compile" else surviving_lost_artifacts(self, place):
            keep_run(end.target, place)
            self.log.info("What dbt left is kept in %s", place)


class DbtCompileOperator(DbtOnceOperator):
    """Run ``dbt compile``; the XCom is the number of compiled nodes.

    The SQL itself is too large for an XCom. With ``DbtProject(artifacts=...)`` it is kept as ``compiled_code`` of each
    node in ``run_results.json`` and ``manifest.json``; without, the task shows that everything compiles.

    All arguments are those of :class:`DbtOperator`; the command takes no ``sample``, ``store_failures`` and event times.

    :raises DbtFailedError: If a node does not compile (the message has dbt's own) or dbt did not come to an end.
    """

    command: ClassVar[str] = "compile"
    template_fields: Sequence[str] = templates("compile")

    def execute(self, context: Context) -> int:
        """Compile."""
        return len(self.run_once(context, self.run_flags(context)).records)


class DbtCloneOperator(DbtOnceOperator):
    """Run ``dbt clone``: make the relations of another run's manifest here, as views or without a copy of the data.

    :param state: Folder or object-store URL with the ``manifest.json`` to clone from (templated), such as
        :func:`airflow_ext.dbt.artifacts.latest_of`.
    :param resource_types: Kinds to clone, such as ``["model"]``; empty means all.
    :param exclude_resource_types: Kinds not to clone.
    :param kwargs: Of :class:`DbtOperator` ``select``, ``exclude``, ``selector``, ``vars``, ``full_refresh`` (replace what
        exists), ``threads``, ``indirect_selection``, ``fail_fast``, ``warn_error``, ``args`` and ``on_warning``.
    :raises DbtFailedError: If a node failed (the message has dbt's own) or dbt did not come to an end.
    """

    command: ClassVar[str] = "clone"
    template_fields: Sequence[str] = templates("clone")

    def __init__(
        self,
        *,
        state: str,
        resource_types: Sequence[str] = (),
        exclude_resource_types: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(state=state, **kwargs)
        self.resource_types = words_of("resource_types", resource_types)
        self.exclude_resource_types = words_of("exclude_resource_types", exclude_resource_types)

    def execute(self, context: Context) -> None:
        """Clone."""
        flags = replace(
            self.run_flags(context),
            resource_types=self.resource_types,
            exclude_resource_types=self.exclude_resource_types,
        )
        self.run_once(context, flags)


class DbtRetryOperator(DbtOnceOperator):
    """Run ``dbt retry``: repeat the command of an earlier run for what failed there or was not reached.

    For a run made elsewhere or by an earlier task. The tries of one of our tasks go on by themselves and do
    not need it. A retry of this task repeats all that the earlier run left. If nothing is left it is green.

    :param state: Folder or object-store URL with the ``run_results.json`` to go on from (templated), such as
        :func:`airflow_ext.dbt.artifacts.place_of`.
    :param kwargs: Of :class:`DbtOperator` ``vars`` and ``threads`` (``None`` means those of the earlier run),
        ``warn_error``, ``args`` and ``on_warning``.
    :raises DbtFailedError: If a node failed (the message has dbt's own) or dbt did not come to an end.
    :raises InvalidProjectError: If there are no such results, or the earlier run deferred to a state.
    """

    command: ClassVar[str] = "retry"
    template_fields: Sequence[str] = templates("retry")

    def __init__(self, *, state: str, **kwargs: Any) -> None:
        super().__init__(state=state, **kwargs)

    def execute(self, context: Context) -> None:
        """Go on."""
        self.run_once(context, self.run_flags(context))


class DbtRunOperationOperator(DbtOnceOperator):
    """Run ``dbt run-operation``: call a macro.

    :param macro: Name of the macro (templated).
    :param macro_args: Its arguments by name (templated). They are visible in the UI and on dbt's command line: no secrets.
    :param kwargs: Of :class:`DbtOperator` ``vars``, ``threads``, ``warn_error``, ``args`` and ``on_warning``.
    :raises ValueError: If the macro has no name or the arguments are not JSON.
    :raises DbtFailedError: If the macro failed (the message has dbt's own) or dbt did not come to an end.
    """

    command: ClassVar[str] = "run-operation"
    template_fields: Sequence[str] = templates("run-operation", "macro", "macro_args")

    def __init__(self, *, macro: str, macro_args: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(macro, str) or not macro.strip():
            raise ValueError(f"macro={macro!r}: give the name of a macro")
        refuse(self.args, {"--args": "macro_args"})
        self.macro = macro
        self.macro_args = macro_args

    def execute(self, context: Context) -> None:
        """Call the macro."""
        flags = self.run_flags(context)
        if self.macro_args:
            flags = replace(flags, args=(*flags.args, "--args", _json(self.macro_args)))
        said: list[str] = []

        def on_log(line: str) -> None:
            said.append(line)
            self.log.info(line)

        # dbt tells why a macro failed only in its log.
        with DbtRun(settings_of(self.project), self.command, flags=flags, words=[self.macro]) as run:
            self._run = run
            end = run.run(on_log=on_log, on_node=no_node, on_tick=lambda: None)
            self.keep(context, end)
        self._warn(context, list(end.warnings))
        if not end.success:
            raise DbtFailedError(f"macro {self.macro} failed: {_why(said)}")


def words_of(name: str, words: Sequence[str]) -> tuple[str, ...]:
    """Return words as they are.

    :param name: Name of the argument that has them.
    :param words: The words.
    :raises ValueError: If they are no list of words.
    """
    if isinstance(words, str) or not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"{name}={words!r}: give a list of words")
    return tuple(words)


def refuse(args: Sequence[str], options: Mapping[str, str]) -> None:
    """Refuse options that are an argument of the operator.

    :param args: Words for dbt.
    :param options: Names of arguments by option.
    :raises ValueError: If one is among the words; names the argument.
    """
    for word in args:
        if (option := word.partition("=")[0]) in options:
            raise ValueError(f"args has {word!r}: give it as {options[option]}=")


def _json(arguments: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(arguments))
    except TypeError as exc:
        raise ValueError(f"macro_args hold a value that is not JSON: {exc}; give text or numbers") from None


def _why(said: Sequence[str]) -> str:
    """Return what dbt's log says of a macro that failed: a line and those that are indented below it."""
    told: list[str] = []
    for line in said:
        if line.startswith(_MACRO_FAILED):
            told = [line.removeprefix(_MACRO_FAILED).strip()]
        elif told and line.startswith(" "):
            told.append(line)
        elif told:
            break
    return "\n".join(told) or "see the log above"
