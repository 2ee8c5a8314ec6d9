"""Airflow's side of the asset state store, in memory: it answers the messages a task or trigger sends."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import (
    AssetStateStoreResult,
    DeleteAssetStateStoreByName,
    ErrorResponse,
    GetAssetStateStoreByName,
    OKResponse,
    SetAssetStateStoreByName,
    SetXCom,
)


class AssetStateServer:
    """What a supervisor does for tasks and triggers, as far as asset state goes."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], str] = {}
        self.reads: Counter[tuple[str, str]] = Counter()
        self.xcoms: dict[tuple[str, str, str, int | None, str], Any] = {}
        self.down = False
        self.refuses_xcoms = False
        self.refuses_deletes = False
        self.unknown_assets: set[str] = set()

    def send(self, msg: Any) -> Any:
        """Answer a task."""
        if self.down:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status": 503}))
        match msg:
            case GetAssetStateStoreByName():
                self.reads[msg.name, msg.key] += 1
                value = self.values.get((msg.name, msg.key))
                if value is None:
                    return ErrorResponse(error=ErrorType.ASSET_STORE_NOT_FOUND, detail={"key": msg.key})
                return AssetStateStoreResult(value=json.loads(value))
            case SetAssetStateStoreByName() if msg.name in self.unknown_assets:
                # as Airflow's supervisor passes on the API server's 404
                message = f"Asset with name={msg.name!r} not found"
                detail = {
                    "status_code": 404,
                    "detail": {"detail": {"reason": "not_found", "message": message}},
                }
                raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail))
            case SetAssetStateStoreByName():
                self.values[msg.name, msg.key] = json.dumps(msg.value)
                return OKResponse(ok=True)
            case DeleteAssetStateStoreByName() if self.refuses_deletes:
                raise AirflowRuntimeError(ErrorResponse(error=ErrorType.GENERIC_ERROR))
            case DeleteAssetStateStoreByName():
                self.values.pop((msg.name, msg.key), None)
                return OKResponse(ok=True)
            case SetXCom() if self.refuses_xcoms:
                raise AirflowRuntimeError(ErrorResponse(error=ErrorType.GENERIC_ERROR))
            case SetXCom():
                self.xcoms[msg.dag_id, msg.run_id, msg.task_id, msg.map_index, msg.key] = msg.value
                return OKResponse(ok=True)
        raise NotImplementedError(type(msg))

    async def asend(self, msg: Any) -> Any:
        """Answer a trigger."""
        return self.send(msg)

    @contextmanager
    def serving(self) -> Iterator[AssetStateServer]:
        """Be the supervisor of this process."""
        missing = object()
        before = getattr(task_runner, "SUPERVISOR_COMMS", missing)
        task_runner.SUPERVISOR_COMMS = self  # type: ignore[assignment]  # speaks the same messages
        try:
            yield self
        finally:
            if before is missing:
                del task_runner.SUPERVISOR_COMMS
            else:
                task_runner.SUPERVISOR_COMMS = before  # type: ignore[assignment]  # whatever it was
