"""``@task.contract_publish``: load a table, then publish it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.bases.decorator import DecoratedOperator, KeywordParameters, task_decorator_factory
from airflow.sdk.definitions.context import context_merge
from airflow.sdk.execution_time.callback_runner import create_executable_runner
from airflow.sdk.execution_time.context import context_get_outlet_events

from airflow_ext.operators.contract import ContractPublishOperator

if TYPE_CHECKING:
    from airflow.sdk.bases.decorator import TaskDecorator
    from airflow.sdk.definitions.context import Context

VERDICT_KEY = "verdict"


class _ContractPublishDecoratedOperator(DecoratedOperator, ContractPublishOperator):
    """Calls the function, then judges and publishes what it has loaded."""

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *ContractPublishOperator.template_fields,
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"op_args": "py", "op_kwargs": "py"}
    custom_operator_name = "@task.contract_publish"

    def execute(self, context: Context) -> Any:
        """Run the function and publish; the XCom is what it returned, the verdict is XCom ``verdict``."""
        context_merge(context, self.op_kwargs)
        given = KeywordParameters.determine(self.python_callable, self.op_args, context).unpacking()
        runner = create_executable_runner(
            self.python_callable, context_get_outlet_events(context), logger=self.log
        )
        returned = runner.run(*self.op_args, **given)
        verdict = ContractPublishOperator.execute(self, context)
        if self.do_xcom_push:
            context["ti"].xcom_push(VERDICT_KEY, verdict)
        return self._handle_output(return_value=returned)


def contract_publish_task(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Turn a function that loads a table into a task that then publishes it.

    :param python_callable: The function.
    :param multiple_outputs: Push each key of a returned dict as an XCom of its own.
    :param kwargs: Arguments of :class:`airflow_ext.operators.contract.ContractPublishOperator`.
    """
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=_ContractPublishDecoratedOperator,
        **kwargs,
    )
