"""Selections: what dbt itself made of ``--select``, ``--exclude`` and ``--selector``.

dbt's selectors are never evaluated here. ``airflow-ext dbt index`` asks dbt, and keeps the ids that it named
in a file beside the manifest, ``<manifest>.selections.json``; a DAG file looks them up. The file holds the
answers for the manifest they were made for and for the one before, so that a reader finds the right ones while
both files are being replaced.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

import msgspec

from airflow_ext.dbt.index import DbtIndex, DbtNode, DbtTest, content_key
from airflow_ext.exceptions import InvalidProjectError

SUFFIX = ".selections.json"
FILE_VERSION = 1
MODES = ("eager", "cautious", "buildable", "empty")
"""dbt's modes of indirect selection."""

Terms = str | Sequence[str] | None

_OF_A_RUN = re.compile(r"(?:^|[\s,+@\d])(?:state|result|source_status):")


def depends_on_a_run(terms: Terms) -> bool:
    """Tell whether terms ask for an earlier run's results or state, which only the run itself can answer.

    :param terms: dbt's terms.
    """
    return bool(_OF_A_RUN.search(" ".join([terms] if isinstance(terms, str) else map(str, terms or ()))))


class Selection(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to build, in dbt's words; nothing given means all, or the project's default selector.

    :param select: Terms of ``--select``.
    :param exclude: Terms of ``--exclude``.
    :param selector: Name of a selector in ``selectors.yml``.
    :param indirect: dbt's mode of indirect selection; empty means its default.
    """

    select: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    selector: str = ""
    indirect: str = ""

    @classmethod
    def of(
        cls,
        select: Terms = None,
        exclude: Terms = None,
        selector: str | None = None,
        indirect: str | None = None,
    ) -> Selection:
        """Return a selection from arguments as users give them.

        :param select: dbt's terms in one string (blanks between them mean "or", commas "and") or a list of such.
        :param exclude: The same for what is left out.
        :param selector: Name of a selector in ``selectors.yml``, instead of the others.
        :param indirect: Which tests come with a selected node: ``eager``, ``cautious``, ``buildable`` or ``empty``.
        :raises TypeError: If terms are no strings.
        :raises InvalidProjectError: If an argument is empty or unknown, or does not go with another.
        """
        if selector is not None and (select is not None or exclude is not None):
            raise InvalidProjectError(
                f"selector={selector!r} with select={select!r} and exclude={exclude!r}: dbt ignores the latter two "
                "beside a selector; give the one or the others"
            )
        if selector is not None and not selector.strip():
            raise InvalidProjectError(f"selector={selector!r}: give the name of a selector, or leave it out")
        if indirect is not None and indirect not in MODES:
            raise InvalidProjectError(f"indirect_selection={indirect!r}: dbt knows {', '.join(MODES)}")
        return cls(
            _terms(select, "select"),
            _terms(exclude, "exclude"),
            selector.strip() if selector else "",
            indirect or "",
        )

    @property
    def key(self) -> tuple[frozenset[str], frozenset[str], str, str]:
        """What makes two selections the same, in whatever order and spacing they are written."""
        return frozenset(self.select), frozenset(self.exclude), self.selector, self.indirect

    @property
    def bare(self) -> bool:
        """Whether nothing is selected, so that dbt takes all or the default selector."""
        return not (self.select or self.exclude or self.selector)

    @property
    def of_a_run(self) -> bool:
        """Whether it cannot be resolved before the run."""
        return depends_on_a_run(self.select) or depends_on_a_run(self.exclude)

    def arguments(self) -> list[str]:
        """Return the selection as arguments of a dbt command."""
        words = []
        if self.select:
            words += ["--select", " ".join(self.select)]
        if self.exclude:
            words += ["--exclude", " ".join(self.exclude)]
        if self.selector:
            words += ["--selector", self.selector]
        if self.indirect:
            words += ["--indirect-selection", self.indirect]
        return words

    def __str__(self) -> str:
        return shlex.join(self.arguments()) or "everything"


class Resolved(msgspec.Struct, frozen=True):
    """A selection and what dbt made of it.

    :param selection: The selection.
    :param ids: dbt's ids of all that it selects, tests, sources and exposures among them.
    """

    selection: Selection
    ids: tuple[str, ...]


class Answers(msgspec.Struct, frozen=True):
    """The selections that were resolved with one manifest.

    :param manifest: Hash of the manifest.
    :param selections: The selections.
    """

    manifest: str
    selections: tuple[Resolved, ...] = ()

    def find(self, selection: Selection) -> Resolved | None:
        """Return the answer for a selection, if it was asked."""
        return next((one for one in self.selections if one.selection.key == selection.key), None)


class _File(msgspec.Struct, frozen=True):
    version: int
    answers: tuple[Answers, ...]


def decode_answers(content: bytes) -> tuple[Answers, ...]:
    """Return what a selections file holds, the newest first; nothing if it is none or of another version.

    :param content: The file.
    """
    try:
        file = msgspec.json.decode(content, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ()
    return file.answers if file.version == FILE_VERSION else ()


def encode_answers(answers: Iterable[Answers]) -> bytes:
    """Return the content of a selections file.

    :param answers: Answers, the newest first.
    """
    file = _File(FILE_VERSION, tuple(answers))
    return msgspec.json.format(msgspec.json.encode(file), indent=1)


def of_a_run(selection: Selection) -> str:
    """Return what is to be said of a selection that somebody wants to know before the run."""
    return f"{selection}: what it selects depends on a run, so it is not resolved before; use DbtBuildOperator and the like"


def find_selected(
    index: DbtIndex, selection: Selection, answers: Sequence[Answers], *, source: str, remedy: str
) -> DbtIndex:
    """Return the graph of a selection.

    :param index: The whole graph.
    :param selection: The selection.
    :param answers: What the selections file holds.
    :param source: The manifest, for messages.
    :param remedy: Command that resolves the selection.
    :raises InvalidProjectError: If it was not resolved with this manifest, or selects nothing to build or test.
    """
    here = next((one for one in answers if one.manifest == index.key), None)
    found = here.find(selection) if here is not None else None
    if found is None and selection.of_a_run:
        raise InvalidProjectError(of_a_run(selection), source=source)
    if found is None:
        stale = any(one.find(selection) is not None for one in answers)
        state = "was resolved for another manifest than" if stale else "is not resolved yet for"
        raise InvalidProjectError(
            f"the selection {_words(index, selection)} {state} {source}; resolve it with: {remedy}",
            source=source,
        )
    selected = select_ids(index, found.ids)
    if not (selected.nodes or selected.orphan_tests):
        raise InvalidProjectError(nothing_selected(selection, source=source), source=source)
    return selected


def nothing_selected(selection: Selection, *, source: str) -> str:
    """Return the message for a selection that dbt knows but that has nothing in it.

    :param selection: The selection.
    :param source: The project or manifest.
    """
    given = {"select": selection.select, "exclude": selection.exclude}
    words = [f"{name}={' '.join(terms)!r}" for name, terms in given.items() if terms]
    words += [f"selector={selection.selector!r}"] if selection.selector else []
    return f"nothing of {source} that dbt builds or tests is selected by {' and '.join(words) or 'default'}"


def select_ids(index: DbtIndex, ids: Iterable[str]) -> DbtIndex:
    """Return the part of a graph that has these ids; edges are seen through what is left out.

    A selected test whose node is not selected is shown at another of its nodes, the last selected one; if none
    is, at its own node, which then does not run.

    :param index: The whole graph.
    :param ids: dbt's ids.
    """
    chosen = frozenset(ids)
    tests = [test for test in index.tests if test.unique_id in chosen]
    homes = _homes(index, tests, chosen)
    at: dict[str, list[str]] = {}
    for test in tests:
        at.setdefault(homes[test.unique_id], []).append(test.unique_id)
    kept = {
        node.unique_id: None
        for node in index.nodes
        if node.unique_id in at or (node.runs and node.unique_id in chosen)
    }
    extras = {
        node.unique_id: None
        for node in (*index.nodes, *index.extras)
        if node.unique_id in chosen and node.unique_id not in kept and node.kind in ("source", "exposure")
    }
    above = _above(index, kept, extras)

    def cut(node: DbtNode) -> DbtNode:
        runs = node.runs and node.unique_id in chosen
        return msgspec.structs.replace(
            node,
            runs=runs,
            asset=node.asset if runs else "",
            parents=tuple(one for one in above[node.unique_id] if one in kept),
            sources=tuple(one for one in above[node.unique_id] if one in extras),
            tests=tuple(at.get(node.unique_id, ())),
        )

    nodes = {node.unique_id: node for node in (*index.nodes, *index.extras)}
    return msgspec.structs.replace(
        index,
        key=f"{index.key}.{content_key(' '.join(sorted(chosen)).encode())}",
        nodes=tuple(cut(nodes[one]) for one in kept),
        extras=tuple(cut(nodes[one]) for one in extras),
        orphan_tests=tuple(at.get("", ())),
        tests=tuple(
            msgspec.structs.replace(
                test,
                home=homes[test.unique_id],
                parents=tuple(one for one in test.parents if one in kept),
            )
            for test in tests
        ),
    )


def _terms(value: Terms, argument: str) -> tuple[str, ...]:
    if value is None:
        return ()
    given = [value] if isinstance(value, str) else list(value)
    for one in given:
        if not isinstance(one, str):
            raise TypeError(f"{argument}={value!r}: give a string of dbt's terms, or a list of such")
    terms = [term for one in given for term in one.split()]
    if not terms:
        raise InvalidProjectError(f"{argument}={value!r} names nothing: give dbt's terms, or leave it out")
    return tuple(dict.fromkeys(terms))


def _words(index: DbtIndex, selection: Selection) -> str:
    if selection.bare and index.default_selector:
        return f"of the default selector {index.default_selector!r}"
    return str(selection)


def _homes(index: DbtIndex, tests: Iterable[DbtTest], chosen: frozenset[str]) -> dict[str, str]:
    position = {node.unique_id: at for at, node in enumerate(index.nodes)}
    homes = {}
    for test in tests:
        candidates = [one for one in test.parents if one in chosen]
        if test.home and test.home not in chosen and candidates:
            homes[test.unique_id] = max(candidates, key=position.__getitem__)
        else:
            homes[test.unique_id] = test.home
    return homes


def _above(index: DbtIndex, kept: dict[str, None], extras: dict[str, None]) -> dict[str, list[str]]:
    above: dict[str, list[str]] = {one.unique_id: [] for one in index.extras}
    # Exposures come last: they may be made from any node, and nothing is made from them.
    exposures = [node for node in index.extras if node.kind == "exposure"]
    for node in (*index.nodes, *exposures):
        above[node.unique_id] = list(
            dict.fromkeys(
                found
                for parent in (*node.parents, *node.sources)
                for found in ([parent] if parent in kept or parent in extras else above[parent])
            )
        )
    return above
