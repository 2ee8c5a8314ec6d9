"""Who uses a contract: found in the text of DAG files, without running them.

Files are parsed, never imported: no user code runs, no library of theirs has to be here, and no database is asked.
What is written as a literal, or as a name that is given one in the same file, is understood; anything else is
reported as not understood, with its line, never left out.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_ext.contracts.ranges import ContractRange
from airflow_ext.exceptions import InvalidError

MAX_BYTES = 5_000_000
_ASSET = re.compile(r"contract/(?P<id>.+)/v(?P<major>\d+)")
_SENSORS = ("ContractSensor",)
_SCHEDULES = ("ContractSchedule",)
_PUBLISHERS = ("ContractPublishOperator", "contract_publish")
_WORTH_READING = re.compile(r"Contract(Sensor|Schedule|PublishOperator)|contract_publish|contract/")


@dataclass(frozen=True)
class Use:
    """One place that waits for a contract, starts with it, or publishes it.

    :param kind: ``waits``, ``starts`` or ``publishes``.
    :param contract: Contract id; empty if it is not understood.
    :param wanted: The versions that can be lived with, ``None`` if not known.
    :param uses: Columns that are read; empty means all, ``None`` that it is not known.
    :param dag_id: The DAG, empty if not known.
    :param task_id: The task, empty for a schedule.
    :param file: Where it stands.
    :param line: Line of it.
    :param note: What is not understood, empty if all is.
    """

    kind: str
    contract: str
    wanted: ContractRange | None = None
    uses: tuple[str, ...] | None = ()
    dag_id: str = ""
    task_id: str = ""
    file: str = ""
    line: int = 0
    note: str = ""

    @property
    def name(self) -> str:
        """DAG and task as people name them."""
        dag = self.dag_id or "(a DAG that is not understood)"
        return f"{dag}.{self.task_id}" if self.task_id else dag

    def includes(self, version: str) -> bool:
        """Say whether this use is content with a version; if one of both is not known, it may be."""
        return self.wanted is None or not version or version in self.wanted


@dataclass(frozen=True)
class Found:
    """What a look at DAG files gave.

    :param uses: Every use.
    :param problems: Files that could not be read, each with the cause.
    :param files: How many files were looked at.
    """

    uses: tuple[Use, ...]
    problems: tuple[str, ...] = ()
    files: int = 0


def find_in_folder(folder: Path) -> Found:
    """Look at every Python file below a folder; hidden folders and links to folders are not followed.

    :raises InvalidError: If there is no such folder.
    """
    if not folder.exists():
        raise InvalidError(f"{folder}: no such file or folder")
    uses: list[Use] = []
    problems: list[str] = []
    files = sorted(_python_files(folder)) if folder.is_dir() else [folder]
    for path in files:
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"larger than {MAX_BYTES:,} bytes")
            uses += find_in_text(path.read_text(encoding="utf-8"), str(path))
        except (OSError, SyntaxError, ValueError, RecursionError) as exc:
            problems.append(f"{path}: {' '.join(str(exc).split())[:200]}")
    return Found(tuple(uses), tuple(problems), len(files))


def _python_files(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        yield from (Path(where, name) for name in names if name.endswith(".py"))


def find_in_text(text: str, file: str) -> list[Use]:
    """Return the uses in one DAG file.

    :raises SyntaxError: If it is no Python.
    """
    if not _WORTH_READING.search(text):
        return []
    return list(_Reader(ast.parse(text), file).uses())


class _Unknown:
    """A value that only running the file would tell."""


UNKNOWN = _Unknown()


class _Reader:
    def __init__(self, tree: ast.Module, file: str) -> None:
        self.tree, self.file = tree, file
        self.parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        self.names = self._constants()

    def _constants(self) -> dict[str, ast.expr]:
        """Return names that are given one value only."""
        found: dict[str, ast.expr | None] = {}
        for node in ast.walk(self.tree):
            targets: list[ast.expr] = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
                targets = [node.target]
            elif isinstance(node, ast.For | ast.comprehension):
                targets = [name for name in ast.walk(node.target) if isinstance(name, ast.Name)]
            for target in targets:
                if isinstance(target, ast.Name):
                    value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
                    found[target.id] = None if target.id in found else value
        return {name: value for name, value in found.items() if value is not None}

    def uses(self) -> Iterator[Use]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and node.attr == "asset":
                yield from self.asset_of_contract(node)
            if not isinstance(node, ast.Call):
                continue
            name = _called(node.func)
            if name in _SENSORS:
                yield self.sensor(node)
            elif name in _SCHEDULES or name == "partitioned":
                if name in _SCHEDULES or _called(getattr(node.func, "value", None)) in _SCHEDULES:
                    yield from self.schedule(node)
            elif name in _PUBLISHERS:
                yield self.publisher(node)
            elif name == "Asset" and (use := self.asset(node)) is not None:
                yield use

    def sensor(self, node: ast.Call) -> Use:
        arguments = self.arguments(node)
        contract, notes = self.value(arguments.get("contract")), []
        uses = self.value(arguments.get("uses")) if "uses" in arguments else ()
        if isinstance(uses, str):
            uses = (uses,)
        if not isinstance(uses, list | tuple) or any(not isinstance(one, str) for one in uses):
            uses = None
            notes.append("the columns it uses")
        wanted = _range(contract)
        if wanted is None:
            notes.append("the contract it waits for")
        return Use(
            "waits",
            wanted.id if wanted else "",
            wanted,
            None if uses is None else tuple(uses),
            self.dag_of(node),
            self.task_of(node, arguments),
            self.file,
            node.lineno,
            _note(notes),
        )

    def schedule(self, node: ast.Call) -> Iterator[Use]:
        for argument in node.args:
            wanted = _range(self.value(argument))
            note = "" if wanted else _note(["the contract it starts with"])
            yield Use("starts", wanted.id if wanted else "", wanted, None, self.dag_of(node), "", self.file,
                      node.lineno, note)  # fmt: skip

    def publisher(self, node: ast.Call) -> Use:
        arguments = self.arguments(node)
        given = arguments.get("contract") or (node.args[0] if node.args else None)
        contract = self.contract_id(given)
        return Use("publishes", contract, None, None, self.dag_of(node), self.task_of(node, arguments), self.file,
                   node.lineno, "" if contract else _note(["the contract it publishes"]))  # fmt: skip

    def asset(self, node: ast.Call) -> Use | None:
        arguments = self.arguments(node)
        given = arguments.get("name") or (node.args[0] if node.args else None)
        match = _ASSET.fullmatch(str(self.value(given)))
        if match is None:
            return None
        contract, major = match["id"], int(match["major"])
        wanted = _range(f"{contract}>={major},<{major + 1}")
        role = self.role_of(node)
        if role == "outlets":
            return None
        task = self.task_of(node, {}) if role == "inlets" else ""
        kind = "waits" if role == "inlets" else "starts"
        return Use(kind, contract, wanted, None, self.dag_of(node), task, self.file, node.lineno)

    def asset_of_contract(self, node: ast.Attribute) -> Iterator[Use]:
        """Read ``schedule=[orders.asset]``, where ``orders`` is read from a file."""
        made = self.names.get(node.value.id) if isinstance(node.value, ast.Name) else node.value
        if not isinstance(made, ast.Call) or _called(made.func) != "from_file":
            return
        role, contract = self.role_of(node), self.contract_id(made)
        if role in ("schedule", "inlets") and contract:
            kind = "waits" if role == "inlets" else "starts"
            task = self.task_of(node, {}) if role == "inlets" else ""
            yield Use(kind, contract, None, None, self.dag_of(node), task, self.file, node.lineno)

    def role_of(self, node: ast.AST) -> str:
        """Return the name of the argument in which an asset stands."""
        current: ast.AST | None = node
        while current is not None:
            if isinstance(current, ast.keyword):
                return current.arg or ""
            current = self.parents.get(current)
        return ""

    def contract_id(self, node: ast.expr | None) -> str:
        """Return the id of the contract an argument names: the file's name, for a path or ``from_file``."""
        if isinstance(node, ast.Name) and node.id in self.names:
            node = self.names[node.id]
        if isinstance(node, ast.Call) and _called(node.func) in ("from_file", "Path") and node.args:
            node = node.args[0]
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            node = node.right
        value = self.value(node)
        name = Path(value).name if isinstance(value, str) else ""
        return re.sub(r"\.odcs\.(ya?ml|json)$|\.ya?ml$", "", name)

    def arguments(self, node: ast.Call) -> dict[str, ast.expr]:
        """Return keyword arguments, those of ``partial(...)`` before ``expand(...)`` too."""
        found = {word.arg: word.value for word in node.keywords if word.arg}
        outer = self.parents.get(node)
        if isinstance(outer, ast.Attribute) and isinstance(call := self.parents.get(outer), ast.Call):
            found |= {word.arg: word.value for word in call.keywords if word.arg and word.arg not in found}
        return found

    def value(self, node: ast.AST | None, depth: int = 0) -> Any:
        """Return what an expression is, :data:`UNKNOWN` if only running it would tell."""
        if depth > 20:
            return UNKNOWN
        match node:
            case ast.Constant():
                return node.value
            case ast.Name() if node.id in self.names:
                return self.value(self.names[node.id], depth + 1)
            case ast.List() | ast.Tuple() | ast.Set():
                items = [self.value(item, depth + 1) for item in node.elts]
                return UNKNOWN if UNKNOWN in items else items
            case ast.JoinedStr():
                parts = [self.value(part, depth + 1) for part in node.values]
                return UNKNOWN if UNKNOWN in parts else "".join(map(str, parts))
            case ast.FormattedValue() if node.format_spec is None and node.conversion == -1:
                return self.value(node.value, depth + 1)
            case ast.BinOp(op=ast.Add()):
                left, right = self.value(node.left, depth + 1), self.value(node.right, depth + 1)
                return left + right if isinstance(left, str) and isinstance(right, str) else UNKNOWN
            case _:
                return UNKNOWN

    def task_of(self, node: ast.AST, arguments: Mapping[str, ast.expr]) -> str:
        """Return the task id that is given, or that of the operator around an asset."""
        given = self.value(arguments.get("task_id"))
        if isinstance(given, str):
            return given
        current = self.parents.get(node)
        while current is not None:
            if isinstance(current, ast.Call):
                around = self.value(self.arguments(current).get("task_id"))
                if isinstance(around, str):
                    return around
            if isinstance(current, ast.FunctionDef) and _decorated(current, "task"):
                return current.name
            current = self.parents.get(current)
        return ""

    def dag_of(self, node: ast.AST) -> str:
        """Return the DAG around a call: ``with DAG(...)``, ``@dag``, its own ``DAG(schedule=...)``, or ``dag=``."""
        current: ast.AST | None = node
        while current is not None:
            if isinstance(current, ast.Call):
                if _called(current.func) == "DAG":
                    return self.dag_id(current)
                if (named := self.arguments(current).get("dag")) is not None and isinstance(named, ast.Name):
                    made = self.names.get(named.id)
                    return self.dag_id(made) if isinstance(made, ast.Call) else ""
            if isinstance(current, ast.With):
                for item in current.items:
                    if isinstance(item.context_expr, ast.Call) and _called(item.context_expr.func) == "DAG":
                        return self.dag_id(item.context_expr)
            if isinstance(current, ast.FunctionDef):
                for decorator in current.decorator_list:
                    if _called(decorator) == "dag" or (
                        isinstance(decorator, ast.Call) and _called(decorator.func) == "dag"
                    ):
                        return self.dag_id(decorator) or current.name
            current = self.parents.get(current)
        return ""

    def dag_id(self, node: ast.AST) -> str:
        if not isinstance(node, ast.Call):
            return ""
        given = self.arguments(node).get("dag_id") or (node.args[0] if node.args else None)
        value = self.value(given)
        return value if isinstance(value, str) else ""


def _called(node: ast.AST | None) -> str:
    """Return the last name of what is called; of ``X.partial`` that is ``X``."""
    if isinstance(node, ast.Attribute):
        return _called(node.value) if node.attr in ("partial", "override") else node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _decorated(node: ast.FunctionDef, name: str) -> bool:
    return any(name in ast.unparse(decorator).split("(")[0].split(".") for decorator in node.decorator_list)


def _range(text: object) -> ContractRange | None:
    try:
        return ContractRange.parse(text) if isinstance(text, str) else None
    except InvalidError:
        return None


def _note(parts: Iterable[str]) -> str:
    what = " and ".join(parts)
    return f"not written as a literal: {what}" if what else ""
