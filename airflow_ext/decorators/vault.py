"""``@task.vault_lease``: a function that is given connections with credentials of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import Context
from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory

from airflow_ext.hooks.vault import vault_connection

GIVEN = ("connection", "connections")
"""Arguments of the function that are filled with what was leased."""


class _VaultLeaseOperator(DecoratedOperator, PythonOperator):
    """A Python task around which connections are leased.

    :param conn_id: Connection, or several.
    :param ttl: Seconds, or text such as ``"10m"``, after which the credentials end even if the function goes on.
    """

    template_fields: Sequence[str] = (*PythonOperator.template_fields, "conn_id")
    custom_operator_name: str = "@task.vault_lease"

    def __init__(
        self,
        *,
        conn_id: str | Sequence[str],
        ttl: int | str | None = None,
        python_callable: Callable[..., Any],
        op_args: Sequence[Any],
        op_kwargs: Mapping[str, Any],
        **kwargs: Any,
    ) -> None:
        self.conn_id, self.ttl = conn_id, ttl
        # What we give at run time must not be missed when the call is checked against the function.
        wanted = [name for name in GIVEN if name in inspect.signature(python_callable).parameters]
        arguments: dict[str, Any] = {
            "python_callable": python_callable,
            "op_args": op_args,
            "op_kwargs": {**dict.fromkeys(wanted), **op_kwargs},
        }
        super().__init__(kwargs_to_upstream=arguments, **arguments, **kwargs)

    def execute(self, context: Context) -> Any:
        """Lease, call the function with ``connection`` or ``connections``, revoke."""
        ids = [self.conn_id] if isinstance(self.conn_id, str) else list(self.conn_id)
        with ExitStack() as stack:
            found = {each: stack.enter_context(vault_connection(each, ttl=self.ttl)) for each in ids}
            self.op_kwargs = {key: value for key, value in self.op_kwargs.items() if key not in GIVEN}
            given: dict[str, Any] = {**context, "connections": found, "connection": found[ids[0]]}
            return super().execute(cast("Context", given))


def vault_lease_task(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Make a task whose function has leased connections, as its argument ``connection`` or ``connections``.

    :param python_callable: The function.
    :param multiple_outputs: As for ``@task``.
    :param kwargs: ``conn_id``, one connection or several, ``ttl``, and what every operator takes.
    """
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=_VaultLeaseOperator,
        **kwargs,
    )
