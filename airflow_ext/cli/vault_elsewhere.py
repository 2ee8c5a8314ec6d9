"""Connections and variables that Airflow has outside of Vault: in its environment and its metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from airflow_ext.exceptions import InvalidError

TEAM_SEPARATOR = "___"
"""Between team and id in names such as ``AIRFLOW_CONN__RED___WAREHOUSE``, which are Airflow's."""


@dataclass(frozen=True)
class Item:
    """One connection or variable.

    :param kind: ``connection`` or ``variable``.
    :param source: ``environment`` or ``metadata``.
    :param document: Reads it; raises :class:`InvalidError`, without a value in it, if that cannot be.
    :param team: Whose it is; ``None`` means everybody's.
    """

    kind: str
    key: str
    source: str
    document: Callable[[], dict[str, Any]]
    team: str | None = None


def items() -> Iterator[Item]:
    """Yield what there is; the environment is asked before the metadata, so it holds where both have an id."""
    from airflow.models.team import Team

    seen: set[tuple[str, str, str | None]] = set()
    for item in (*_of_environment(sorted(Team.get_all_team_names())), *_of_metadata()):
        name = (item.kind, item.key, item.team)
        if name not in seen:
            seen.add(name)
            yield item


def _of_environment(teams: Sequence[str]) -> Iterator[Item]:
    makers = {"AIRFLOW_CONN_": ("connection", _connection), "AIRFLOW_VAR_": ("variable", _variable)}
    for name, value in sorted(os.environ.items()):
        for prefix, (kind, made) in makers.items():
            if name.startswith(prefix):
                yield _item(kind, name.removeprefix(prefix), partial(made, value), teams)


def _item(kind: str, name: str, document: Callable[[], dict[str, Any]], teams: Sequence[str]) -> Item:
    starts = {team: f"_{team.upper()}{TEAM_SEPARATOR}" for team in teams}
    owners = [team for team, start in starts.items() if name.startswith(start)]
    if len(owners) == 1:
        key = name.removeprefix(starts[owners[0]])
        return Item(kind, key.lower(), "environment", document, owners[0])
    if owners:
        document = partial(_fail, f"it may be of the teams {', '.join(owners)}: leave only one name possible")
    elif TEAM_SEPARATOR in name and _multi_team():
        document = partial(
            _fail, f"Airflow takes a name with {TEAM_SEPARATOR} for a team's, and has no such team"
        )
    return Item(kind, name.lower(), "environment", document)


def _multi_team() -> bool:
    from airflow.sdk.configuration import conf

    return bool(conf.getboolean("core", "multi_team", fallback=False))


def _fail(text: str) -> dict[str, Any]:
    raise InvalidError(text)


def _variable(value: str) -> dict[str, Any]:
    return {"value": value}


def _connection(value: str) -> dict[str, Any]:
    if not value.lstrip().startswith("{"):
        return {"conn_uri": value}
    try:
        return dict(json.loads(value))
    except ValueError:
        raise InvalidError("it is text that is no JSON") from None  # Airflow's own error would show it


def _of_metadata() -> Iterator[Item]:
    from airflow.models import Connection, Variable
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with (
        create_session() as session
    ):  # of names only: a value that cannot be decrypted fails where it is read
        connections = session.execute(
            select(Connection.conn_id, Connection.team_name).order_by(Connection.conn_id)
        ).all()
        variables = session.execute(select(Variable.key, Variable.team_name).order_by(Variable.key)).all()
    for key, team in connections:
        yield Item("connection", str(key), "metadata", partial(_stored, _stored_connection, str(key)), team)
    for key, team in variables:
        yield Item("variable", str(key), "metadata", partial(_stored, _stored_variable, str(key)), team)


def _stored(read: Callable[[str], dict[str, Any]], key: str) -> dict[str, Any]:
    try:
        return read(key)
    except InvalidError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, its text may show a value
        kind = type(error).__name__
    raise InvalidError(f"it cannot be read ({kind}): is [core] fernet_key the key it was written with?")


def _stored_connection(key: str) -> dict[str, Any]:
    from airflow.models import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        each = session.scalars(select(Connection).where(Connection.conn_id == key)).one()
        fields = {
            "conn_type": each.conn_type,
            "description": each.description,
            "host": each.host,
            "login": each.login,
            "password": each.password,
            "schema": each.schema,
            "port": each.port,
            "extra": each.extra,
        }
    return {name: value for name, value in fields.items() if value not in (None, "")}


def _stored_variable(key: str) -> dict[str, Any]:
    from airflow.models import Variable
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        value = session.scalars(select(Variable).where(Variable.key == key)).one().val
    if value is None:  # what Airflow says where it cannot decrypt one
        raise InvalidError("it cannot be decrypted: is [core] fernet_key the key it was written with?")
    return {"value": value}
