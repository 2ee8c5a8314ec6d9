"""A JSON schema as plain functions, to say quickly that a document is valid.

``jsonschema`` needs 18 ms for a common contract, most of it for the 56 conditions of the ODCS schema that look at each
column. The functions made here need a fiftieth of that and say yes or no; for a document that is not valid,
``jsonschema`` then explains. Only the keywords the ODCS schema uses are known, any other is refused when compiling,
so that an unknown one can never let a document pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Marks = set[Any]
"""Names and numbers of what a schema has looked at, for ``unevaluatedProperties``."""
Check = Callable[[Any, Marks], bool]

_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: (
        not isinstance(value, bool)
        and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))
    ),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
_WORDS = frozenset({
    "$schema", "$defs", "$comment", "$id", "title", "description", "default", "examples", "deprecated", "format",
    "then", "else", "required",
})  # fmt: skip
"""Keywords that say nothing by themselves; ``required`` is read with ``properties``."""


def compile_schema(schema: Mapping[str, Any]) -> Callable[[Any], bool]:
    """Return a function that says whether a document is valid.

    :raises ValueError: If the schema uses a keyword that is not known here.
    """
    check = _Compiler(schema).compile(schema)
    return lambda document: check(document, set())


class _Compiler:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.known: dict[str, Check] = {}

    def compile(self, schema: Any) -> Check:
        if schema is True or schema is False:
            return lambda _value, _marks: bool(schema)
        checks: list[Check] = []
        last: list[Check] = []
        if "required" in schema:
            checks.append(_required(tuple(schema["required"])))
        for keyword, argument in schema.items():
            if keyword in _WORDS:
                continue
            made = self.keyword(keyword, argument, schema)
            (last if keyword == "unevaluatedProperties" else checks).append(made)
        together = (*checks, *last)
        if len(together) == 1:
            return together[0]

        def all_of_them(value: Any, marks: Marks) -> bool:
            for check in together:  # noqa: SIM110  all() makes a generator for each value
                if not check(value, marks):
                    return False
            return True

        return all_of_them

    def keyword(self, keyword: str, argument: Any, schema: Mapping[str, Any]) -> Check:
        match keyword:
            case "$ref":
                return self.reference(argument)
            case "properties":
                return self.properties(argument)
            case "additionalProperties":
                return self.others(argument, frozenset(schema.get("properties", ())))
            case "unevaluatedProperties":
                return self.unevaluated(argument)
            case "items":
                return self.items(argument)
            case "allOf" | "anyOf" | "oneOf":
                return _combined(keyword, [self.compile(each) for each in argument])
            case "not":
                inner = self.compile(argument)
                return lambda value, _marks: not inner(value, set())
            case "if":
                return self.condition(schema)
            case _:
                return _plain(keyword, argument)

    def reference(self, path: str) -> Check:
        if path not in self.known:
            # a schema may refer to itself: the name is known before what it stands for
            self.known[path] = lambda value, marks: self.known[path](value, marks)
            target: Any = self.root
            for part in path.removeprefix("#/").split("/"):
                target = target[part]
            self.known[path] = self.compile(target)
        return lambda value, marks: self.known[path](value, marks)

    def properties(self, argument: Mapping[str, Any]) -> Check:
        known = {name: self.compile(each) for name, each in argument.items()}

        def check(value: Any, marks: Marks) -> bool:
            if isinstance(value, dict):
                for name, inner in value.items():
                    if (named := known.get(name)) is not None:
                        marks.add(name)
                        if not named(inner, set()):
                            return False
            return True

        return check

    def others(self, argument: Any, named: frozenset[str]) -> Check:
        inner = self.compile(argument)

        def check(value: Any, marks: Marks) -> bool:
            if isinstance(value, dict):
                for name in value.keys() - named:
                    marks.add(name)
                    if not inner(value[name], set()):
                        return False
            return True

        return check

    def unevaluated(self, argument: Any) -> Check:
        inner = self.compile(argument)

        def check(value: Any, marks: Marks) -> bool:
            if isinstance(value, dict):
                for name in value.keys() - marks:
                    if not inner(value[name], set()):
                        return False
                marks.update(value)
            return True

        return check

    def items(self, argument: Any) -> Check:
        if not isinstance(argument, dict | bool):
            raise ValueError("items: a list of schemas is not known here")
        inner = self.compile(argument)
        return lambda value, _marks: not isinstance(value, list) or all(inner(each, set()) for each in value)

    def condition(self, schema: Mapping[str, Any]) -> Check:
        asked = _is_one_value(schema["if"]) or self.compile(schema["if"])
        then, other = self.compile(schema.get("then", True)), self.compile(schema.get("else", True))

        def check(value: Any, marks: Marks) -> bool:
            seen: Marks = set()
            if asked(value, seen):
                marks |= seen
                return then(value, marks)
            return other(value, marks)

        return check


def _is_one_value(condition: Mapping[str, Any]) -> Check | None:
    """Return a quick check of the usual condition: one field has one value."""
    fields = condition.get("properties", {})
    if set(condition) != {"properties", "required"} or len(fields) != 1:
        return None
    name, wanted = next(iter(fields.items()))
    if (
        condition["required"] != [name]
        or set(wanted) - _WORDS != {"const"}
        or not isinstance(wanted["const"], str)
    ):
        return None
    const = wanted["const"]

    def check(value: Any, marks: Marks) -> bool:
        if not isinstance(value, dict):
            return True
        if value.get(name) != const:
            return False
        marks.add(name)
        return True

    return check


def _combined(keyword: str, checks: list[Check]) -> Check:
    def check(value: Any, marks: Marks) -> bool:
        good = 0
        for each in checks:
            seen: Marks = set()
            if each(value, seen):
                good += 1
                marks |= seen
            elif keyword == "allOf":
                return False
        return good == len(checks) if keyword == "allOf" else good == 1 if keyword == "oneOf" else good > 0

    return check


def _required(names: tuple[str, ...]) -> Check:
    return lambda value, _marks: not isinstance(value, dict) or all(name in value for name in names)


def _plain(keyword: str, argument: Any) -> Check:
    """Return the check of a keyword that looks at one value only."""
    match keyword:
        case "type":
            types = [_TYPES[name] for name in ([argument] if isinstance(argument, str) else argument)]
            if len(types) == 1:
                only = types[0]
                return lambda value, _marks: only(value)
            return lambda value, _marks: any(each(value) for each in types)
        case "enum":
            return lambda value, _marks: any(_same(value, each) for each in argument)
        case "const":
            return lambda value, _marks: _same(value, argument)
        case "pattern":
            pattern = re.compile(argument)
            return lambda value, _marks: not isinstance(value, str) or pattern.search(value) is not None
        case "minLength":
            return lambda value, _marks: not isinstance(value, str) or len(value) >= argument
        case "minItems":
            return lambda value, _marks: not isinstance(value, list) or len(value) >= argument
        case "maxItems":
            return lambda value, _marks: not isinstance(value, list) or len(value) <= argument
        case "uniqueItems":
            return lambda value, _marks: not (argument and isinstance(value, list)) or _unique(value)
        case "minimum":
            return lambda value, _marks: not _TYPES["number"](value) or value >= argument
        case "maximum":
            return lambda value, _marks: not _TYPES["number"](value) or value <= argument
        case "exclusiveMinimum":
            return lambda value, _marks: not _TYPES["number"](value) or value > argument
        case "exclusiveMaximum":
            return lambda value, _marks: not _TYPES["number"](value) or value < argument
    raise ValueError(f"{keyword!r} is not known here")


def _same(one: Any, other: Any) -> bool:
    """JSON tells ``true`` from ``1``."""
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)


def _unique(values: list[Any]) -> bool:
    return not any(_same(one, other) for at, one in enumerate(values) for other in values[:at])
