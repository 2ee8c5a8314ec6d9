"""An auth manager that can keep a user from parts of a DAG, as others than the simple one can."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager


class Gatekeeper(SimpleAuthManager):
    """The user ``no-<ENTITY>`` may not see that of any DAG, ``only-<dag>`` only that DAG, ``no-plugins`` no plugin."""

    def is_authorized_dag(
        self, *, user: Any, access_entity: Any = None, details: Any = None, **more: Any
    ) -> bool:
        """Say what a user may see of a DAG."""
        allowed = super().is_authorized_dag(user=user, access_entity=access_entity, details=details, **more)
        name = user.get_name()
        if name.startswith("only-"):
            return allowed and details is not None and details.id == name.removeprefix("only-")
        return allowed and not (access_entity is not None and name == f"no-{access_entity.name}")

    def is_authorized_view(self, *, user: Any, **more: Any) -> bool:
        """Say whether a user may see plugins."""
        return user.get_name() != "no-plugins" and super().is_authorized_view(user=user, **more)
