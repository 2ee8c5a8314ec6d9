"""A rule's query that only aggregates the partition's rows becomes a column of the one query over them."""

from __future__ import annotations

import functools
from typing import Any


@functools.lru_cache(maxsize=4096)
def fold(query: str, table: str, dialect: str) -> str | None:
    """Return the expression that gives, over the rows of ``table``, what ``query`` gives.

    ``SELECT SUM(a) FROM rows WHERE b > 0`` becomes ``SUM(CASE WHEN b > 0 THEN a END)``.

    :param query: One ``SELECT`` without values bound to it.
    :param table: The name it reads from.
    :param dialect: sqlglot's name of the dialect.
    :return: ``None`` if it does more than aggregate those rows; then it must run on its own.
    """
    import sqlglot
    from sqlglot import exp

    try:
        parsed = sqlglot.parse_one(query, dialect=dialect)
    except sqlglot.errors.SqlglotError:
        return None
    if not isinstance(parsed, exp.Select) or not _is_plain(parsed, table):
        return None
    expression = parsed.expressions[0].unalias().copy()
    where = parsed.args.get("where")
    condition = where.this.copy() if where else None
    for part in (expression, condition):
        for column in part.find_all(exp.Column) if part else ():
            column.set("table", None)
    aggregates = list(expression.find_all(exp.AggFunc))
    if not aggregates or any(not _may_fold(aggregate) for aggregate in aggregates):
        return None
    if any(column.find_ancestor(exp.AggFunc) is None for column in expression.find_all(exp.Column)):
        return None
    if condition is not None:
        for aggregate in aggregates:
            _restrict(aggregate, condition)
    text: str = expression.sql(dialect=dialect, comments=False)
    return text


def _is_plain(select: Any, table: str) -> bool:
    """Say whether it is one expression, from one table, with nothing but a WHERE."""
    from sqlglot import exp

    known = {"expressions", "from_", "from", "where", "kind"}
    if any(value for name, value in select.args.items() if name not in known) or len(select.expressions) != 1:
        return False
    source = select.args.get("from_") or select.args.get("from")
    if (
        source is None
        or not isinstance(source.this, exp.Table)
        or source.this.sql(identify=False).split(" ")[0] != table
    ):
        return False
    if any(value for name, value in source.this.args.items() if name not in ("this", "alias")):
        return False
    unwanted = (
        exp.Subquery,
        exp.Window,
        exp.Filter,
        exp.Star,
        exp.Placeholder,
        exp.Parameter,
        exp.WithinGroup,
    )
    body = [select.expressions[0], *([where] if (where := select.args.get("where")) else [])]
    for part in body:
        for node in part.walk():
            if isinstance(node, exp.Star) and isinstance(node.parent, exp.Count):
                continue
            if isinstance(node, (*unwanted, exp.Select)):
                return False
            if isinstance(node, exp.Func) and not isinstance(node, exp.AggFunc) and not _is_known(node):
                return False
    where = select.args.get("where")
    return where is None or where.find(exp.AggFunc) is None


def _is_known(function: Any) -> bool:
    """Functions sqlglot has no class for may do anything, also sleep."""
    from sqlglot import exp

    return not isinstance(function, exp.Anonymous | exp.AnonymousAggFunc)


def _may_fold(aggregate: Any) -> bool:
    from sqlglot import exp

    plain = type(aggregate) in (exp.Count, exp.Sum, exp.Avg, exp.Min, exp.Max)
    one = not aggregate.expressions and aggregate.find_ancestor(exp.AggFunc) is None
    distinct = aggregate.this if isinstance(aggregate.this, exp.Distinct) else None
    return (
        plain
        and one
        and (distinct is None or (len(distinct.expressions) == 1 and not distinct.args.get("on")))
    )


def _restrict(aggregate: Any, condition: Any) -> None:
    from sqlglot import exp

    distinct = aggregate.this if isinstance(aggregate.this, exp.Distinct) else None
    value = distinct.expressions[0] if distinct else aggregate.this
    if isinstance(value, exp.Star):
        value = exp.Literal.number(1)
    kept = exp.Case(ifs=[exp.If(this=condition.copy(), true=value.copy())])
    if distinct:
        distinct.set("expressions", [kept])
    else:
        aggregate.set("this", kept)
