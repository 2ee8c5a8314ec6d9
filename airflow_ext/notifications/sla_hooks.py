"""What some notifiers keep to themselves and the sender has to know: threads, and whether anybody was told."""

from __future__ import annotations

from typing import Any

from airflow_ext.exceptions import UnavailableError

_SLACK = ("airflow.providers.slack.notifications.slack", "SlackNotifier")
_APPRISE = ("airflow.providers.apprise.notifications.apprise", "AppriseNotifier")


class SlackThread:
    """A Slack hook that answers in a thread and remembers which message it wrote.

    :param hook: The notifier's own.
    :param thread: ``ts`` of the thread's first message; empty to begin one.
    """

    def __init__(self, hook: Any, thread: str) -> None:
        self._hook, self.thread = hook, thread

    def call(self, method: str, *, json: dict[str, Any]) -> Any:
        """Call a method of the Slack Web API."""
        return self._remember(self._hook.call(method, json=self._in_thread(json)))

    async def async_call(self, method: str, *, json: dict[str, Any]) -> Any:
        """Call a method of the Slack Web API."""
        return self._remember(await self._hook.async_call(method, json=self._in_thread(json)))

    def _in_thread(self, message: dict[str, Any]) -> dict[str, Any]:
        return {**message, "thread_ts": self.thread} if self.thread else message

    def _remember(self, answer: Any) -> Any:
        if not self.thread:
            self.thread = str(answer.get("ts") or "")
        return answer


class LoudApprise:
    """An Apprise hook that raises if a service was not told; the provider's drops what Apprise says about that."""

    def __init__(self, hook: Any) -> None:
        self._hook = hook

    def notify(self, *, config: Any = None, **message: Any) -> None:
        """Tell all services of the connection.

        :raises UnavailableError: If one of them did not take it.
        """
        from airflow.sdk import BaseHook

        connection = None if config else BaseHook.get_connection(self._hook.apprise_conn_id)
        _check(self._services(connection, config).notify(**message))

    async def async_notify(self, *, config: Any = None, **message: Any) -> None:
        """Tell all services of the connection.

        :raises UnavailableError: If one of them did not take it.
        """
        from airflow.providers.common.compat.connection import get_async_connection

        connection = None if config else await get_async_connection(self._hook.apprise_conn_id)
        _check(await self._services(connection, config).async_notify(**message))

    def _services(self, connection: Any, config: Any) -> Any:
        from apprise import Apprise

        services = Apprise()
        if config:
            services.add(config)
        else:
            self._hook.set_config_from_conn(conn=connection, apprise_obj=services)
        return services


def adapt(notifier: Any, thread: str) -> SlackThread | None:
    """Put the above in place of the hook of a notifier that needs it.

    :param thread: What an earlier message to this channel gave.
    :returns: What will know the thread afterwards, if there are threads.
    """
    kinds = {(base.__module__, base.__name__) for base in type(notifier).__mro__}
    if _SLACK in kinds:
        slack = SlackThread(notifier.hook, thread)
        notifier.__dict__["hook"] = slack  # a cached property: this is its cache
        return slack
    if _APPRISE in kinds:
        notifier.__dict__["hook"] = LoudApprise(notifier.hook)
    return None


def _check(answer: Any) -> None:
    if not answer:
        raise UnavailableError(
            "Apprise did not tell every service of the connection, or there is none with this tag; its log says which",
            service="Apprise",
        )
