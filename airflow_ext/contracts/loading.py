"""From the text of an ODCS file to a checked document, with a place for every problem."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any

import yaml

from airflow_ext.contracts.compiled_schema import compile_schema
from airflow_ext.exceptions import InvalidContractError

MAX_BYTES = 1_000_000
MAX_NODES = 50_000
"""Values of a file; published contracts have a few thousand."""
MAX_PROBLEMS = 50
MAX_ERRORS = 500
"""Violations of the standard's schema that are looked for in one file."""
MAX_DEPTH = 100
MAX_NUMBER = 100
"""Characters of a number."""
API_VERSIONS = ("v3.0", "v3.1", "v3.2")

_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "seq", "map", "merge", "value")
)
_MAY_NEST = "[{-?"
_DEEP = 5000
"""So many signs that may begin a nested value do the parser no harm, which recurses and would end the process."""

Path = tuple[str | int, ...]

_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}


class Places:
    """Lines of a file by path, to say where a problem is."""

    def __init__(self, root: yaml.Node | None) -> None:
        self._root = root

    def problem(self, path: Path, text: str) -> str:
        """Return one line that names the place and the problem."""
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
        line = f"line {self._line(path)}, " if self._root is not None else ""
        return f"{line}{where or 'file'}: {text}"

    def _line(self, path: Path) -> int:
        node: Any = self._root
        line = node.start_mark.line + 1
        for part in path:
            if isinstance(node, yaml.MappingNode):
                pair = next((pair for pair in node.value if pair[0].value == part), None)
                if pair is None:
                    break
                line, node = pair[0].start_mark.line + 1, pair[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                break
        return int(line)


def refuse(source: str, problems: list[str]) -> InvalidContractError:
    """Return the error that lists all problems of a file."""
    shown = problems[:MAX_PROBLEMS]
    more = f"\n  ... and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
    lines = "".join(f"\n  {problem}" for problem in shown)
    return InvalidContractError(
        f"{source}: not a usable contract:{lines}{more}", source=source, problems=tuple(problems)
    )


def load(text: str, source: str) -> tuple[dict[str, Any], Places]:
    """Read and check the text of a contract file.

    :param text: YAML (or JSON) in the Open Data Contract Standard v3.0 to v3.2.
    :param source: Where it came from, for messages.
    :raises InvalidContractError: With every problem found.
    """
    node, document = _parse(text, source)
    places = Places(node)
    if not isinstance(document, dict):
        raise refuse(source, [places.problem((), f"expected a mapping, found {type(document).__name__}")])
    problems = [places.problem(path, f"the key {key!r} is written twice") for path, key in _duplicates(node)]
    version = document.get("apiVersion")
    if isinstance(version, str) and not version.startswith(API_VERSIONS):
        problems.append(
            places.problem(
                ("apiVersion",), f"{version!r} is not read here; use one of {', '.join(API_VERSIONS)}"
            )
        )
    if not problems and _is_valid()(document):
        return document, places
    found = itertools.islice(_validator().iter_errors(document), MAX_ERRORS)
    errors = sorted(found, key=lambda e: str(e.path))
    wrong = {str(error.absolute_path) for error in errors if error.validator != "unevaluatedProperties"}
    for error in errors:
        # what is wrong otherwise also leaves its known fields "unevaluated": do not call those unknown
        if error.validator != "unevaluatedProperties" or str(error.absolute_path) not in wrong:
            problems += _explain(error, places)
    if problems:
        raise refuse(source, list(dict.fromkeys(problems)))
    return document, places


def _parse(text: str, source: str) -> tuple[yaml.Node, Any]:
    if len(text.encode()) > MAX_BYTES:
        raise refuse(source, [f"file: larger than {MAX_BYTES:,} bytes"])
    loader = _loader_class()(text)
    try:
        if sum(map(text.count, _MAY_NEST)) > _DEEP:
            _check_depth(text)
        node = loader.get_single_node()
        if node is None:
            raise refuse(source, ["file: it is empty"])
        if aliased := _aliased(node):
            raise refuse(
                source, [f"line {line}: an alias repeats this value; write it out" for line in aliased]
            )
        return node, loader.construct_document(node)
    except yaml.MarkedYAMLError as exc:
        line = f"line {exc.problem_mark.line + 1}" if exc.problem_mark else "file"
        raise refuse(source, [f"{line}: not YAML: {exc.problem}"]) from None
    except (yaml.YAMLError, ValueError) as exc:
        if isinstance(exc, InvalidContractError):
            raise
        raise refuse(source, [f"file: not YAML: {str(exc)[:200]}"]) from None
    except RecursionError:
        raise refuse(source, ["file: nested too deeply"]) from None
    finally:
        loader.dispose()


@functools.cache
def _loader_class() -> Any:
    """A safe loader that leaves dates and times of day as text.

    ODCS wants strings there and people do not quote them; YAML 1.1 would read 10:30 as the number 630.
    """
    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    resolvers = {
        first: [
            (tag, _NUMBERS.get(tag, regexp)) for tag, regexp in pairs if tag != "tag:yaml.org,2002:timestamp"
        ]
        for first, pairs in base.yaml_implicit_resolvers.items()
    }
    return type("_ContractLoader", (base,), {"yaml_implicit_resolvers": resolvers})


def _aliased(root: yaml.Node) -> list[int]:
    """Return the lines of values that an alias repeats, without following it.

    :raises RecursionError: If the file is nested too deeply.
    :raises ValueError: If it holds too many values, or one that is none of JSON.
    """
    lines: list[int] = []
    seen: set[int] = set()
    left = [(root, 0)]
    while left:
        node, depth = left.pop()
        if depth > MAX_DEPTH:
            raise RecursionError
        if id(node) in seen:
            lines.append(node.start_mark.line + 1)
            continue
        seen.add(id(node))
        if len(seen) > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES:,} values")
        _check_value(node)
        if isinstance(node, yaml.SequenceNode):
            left += [(child, depth + 1) for child in node.value]
        elif isinstance(node, yaml.MappingNode):
            left += [(child, depth + 1) for pair in node.value for child in pair]
    return sorted(set(lines))


def _check_depth(text: str) -> None:
    """Refuse what is nested too deeply, without recursing.

    :raises RecursionError: If it is.
    """
    depth = 0
    for event in yaml.parse(text, Loader=_loader_class()):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise RecursionError


def _check_value(node: yaml.Node) -> None:
    """Refuse a value whose tag makes it something else than it looks like, and a number nobody means."""
    line = node.start_mark.line + 1
    if node.tag not in _TAGS:
        raise ValueError(
            f"line {line}: {node.tag[:80]!r} is no type of a contract; write the value without a tag"
        )
    if (looks := _NUMBERS.get(node.tag)) and (len(node.value) > MAX_NUMBER or not looks.match(node.value)):
        raise ValueError(
            f"line {line}: {node.value[:20]!r} is no number, or one of more than {MAX_NUMBER} characters"
        )


def _duplicates(node: yaml.Node, path: Path = ()) -> Iterator[tuple[Path, str]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key.value, str) and key.value != "<<":
                if key.value in seen:
                    yield (*path, key.value), key.value
                seen.add(key.value)
                yield from _duplicates(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _duplicates(value, (*path, index))


@functools.cache
def _schema() -> Any:
    schema = files("open_data_contract_standard").joinpath("schema.json").read_text(encoding="utf-8")
    return _mended(json.loads(schema))


@functools.cache
def _is_valid() -> Callable[[Any], bool]:
    """Say quickly that a document is valid; one that seems not to be is looked at with :func:`_validator`."""
    try:
        return compile_schema(_schema())
    except ValueError:  # a later version of the standard's package may use what we do not know
        return lambda _document: False


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft201909Validator

    return Draft201909Validator(_schema())


def _mended(schema: Any) -> Any:
    """Let a condition about a field apply only where the field is.

    The published schema forgets that, and so asks each column without ``logicalType`` for a ``map``.
    """
    if isinstance(schema, list):
        return [_mended(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    mended = {key: _mended(value) for key, value in schema.items()}
    condition = mended.get("if")
    if isinstance(condition, dict) and "properties" in condition:
        condition.setdefault("required", sorted(condition["properties"]))
    return mended


def _explain(error: Any, places: Places) -> Iterator[str]:
    """Turn one schema error into lines a contract's author understands."""
    path: Path = tuple(error.absolute_path)
    if error.validator in ("anyOf", "oneOf") and _is_operator_choice(error):
        yield places.problem(path, "a rule needs exactly one of mustBe, mustNotBe, mustBeGreaterThan, ...")
        return
    if error.validator in ("unevaluatedProperties", "additionalProperties"):
        names = re.findall(r"'([^']*)'", error.message.split("(")[-1])
        if names:
            for name in names[: MAX_PROBLEMS + 1]:
                text = "unknown field (our own go under customProperties)"
                if name.startswith("mustBe"):
                    text = "a rule needs a metric, or type: sql with a query"
                yield places.problem((*path, name), text)
            return
    message = error.message
    if (
        error.validator == "type"
        and error.instance is not None
        and not isinstance(error.instance, dict | list)
    ):
        message = f"{error.instance!r} is not of type {error.validator_value!r}" + (
            ", put it in quotes" if error.validator_value == "string" else ""
        )
    yield places.problem(path, message[:200])


def _is_operator_choice(error: Any) -> bool:
    return any("mustBe" in str(choice.get("required", "")) for choice in error.validator_value)
