"""What ``doctor`` looks at in the configuration: addresses, the triggerer's limits, the secrets backend."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_ext.cli.doctor_finding import Finding, fail, ok, warn

if TYPE_CHECKING:
    from airflow_ext.vault.check import VaultCheck

_OURS = "airflow_ext.secrets.vault.VaultBackend"
_PORTS = {"http": 80, "https": 443}
_SPARE_FILES = 256
_ANSWER_TIMEOUT = 10.0  # seconds; the first call after a start builds the application


def addresses() -> Iterator[Finding]:
    """People and tasks are sent to an address that answers."""
    from airflow.configuration import conf
    from airflow.executors.base_executor import get_execution_api_server_url

    base_url = conf.get("api", "base_url", fallback="")
    if base_url:
        yield ok(f"[api] base_url is {base_url}")
    else:
        yield warn(
            "[api] base_url is not set: links in notices lead to http://localhost:8080",
            "Set AIRFLOW__API__BASE_URL to the address people open.",
        )
    execution, port = get_execution_api_server_url(), conf.getint("api", "port")
    address = urlsplit(execution)
    local = address.hostname in {"localhost", "127.0.0.1", "::1"}
    if local and (address.port or _PORTS.get(address.scheme)) != port:
        yield fail(
            f"tasks call {execution}, but the api-server listens on port {port}: every task will fail",
            f"Set AIRFLOW__CORE__EXECUTION_API_SERVER_URL to http://{address.hostname}:{port}/execution/.",
        )
    else:
        yield from _answers(execution)


def _answers(execution_url: str) -> Iterator[Finding]:
    import httpx

    url = f"{execution_url.rstrip('/')}/health"
    try:
        status = httpx.get(url, timeout=_ANSWER_TIMEOUT).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        yield warn(
            f"nothing answers where tasks will call, {execution_url} ({type(error).__name__})",
            "Fine if the api-server is not started; else correct [core] execution_api_server_url.",
        )
        return
    if status == httpx.codes.OK:
        yield ok(f"the execution API answers at {execution_url}")
    else:
        yield fail(
            f"{url} answers with HTTP {status}: that is not Airflow's execution API",
            "Correct [core] execution_api_server_url; it ends in /execution/.",
        )


def triggerer_limits() -> Iterator[Finding]:
    """The triggerer may open as many files as it may hold triggers."""
    import resource

    from airflow.configuration import conf

    capacity = conf.getint("triggerer", "capacity")
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < capacity + _SPARE_FILES:
        yield warn(
            f"a triggerer holds up to {capacity} triggers, but a process here may open only {files} files",
            f"Raise the limit where the triggerer runs (ulimit -n {capacity + _SPARE_FILES} or more), "
            "or lower AIRFLOW__TRIGGERER__CAPACITY.",
        )
    else:
        shown = "unlimited" if files == resource.RLIM_INFINITY else files
        yield ok(f"triggerer capacity {capacity}, open files {shown}")


def secrets_backend() -> Iterator[Finding]:
    """The secrets backend is configured legibly and, if it is ours, reachable."""
    from airflow.configuration import conf, get_custom_secret_backend

    server = conf.get("secrets", "backend", fallback="")
    workers = conf.get("workers", "secrets_backend", fallback="")
    if not server and not workers:
        yield ok("no secrets backend is configured")
        return
    for section, key, path in (("secrets", "backend", server), ("workers", "secrets_backend", workers)):
        if not path:
            continue
        yield from _kwargs_are_json(
            conf.get(section, f"{key}_kwargs", fallback=""), f"[{section}] {key}_kwargs"
        )
        if path == _OURS:
            backend: Any = get_custom_secret_backend(worker_mode=section == "workers")
            yield from vault_findings(backend.check(), where=f"[{section}] {key}")
        else:
            yield ok(f"[{section}] {key} is {path}; only airflow-ext's own backend is asked further")


def _kwargs_are_json(text: str, where: str) -> Iterator[Finding]:
    try:
        good = isinstance(json.loads(text or "{}"), dict)
    except ValueError:
        good = False
    if not good:
        yield fail(
            f"{where} is not a JSON object: Airflow drops it and goes on with none of its arguments",
            f'Write {where} as JSON, with double quotes: {{"url": "https://vault:8200", ...}}.',
        )


def vault_findings(checked: VaultCheck, *, where: str) -> Iterator[Finding]:
    """Turn what :func:`airflow_ext.vault.check.check` saw into findings.

    :param where: The configuration that leads to this Vault.
    """
    for problem in checked.problems:
        yield fail(
            f"{where}: {problem}", f"Correct {where}_kwargs or what Vault allows; lookups fail until then."
        )
    if checked.ok:
        ttl = f", token for another {checked.token_ttl} s" if checked.token_ttl else ""
        yield ok(f"{where}: Vault {checked.version or '?'} at {checked.address} lets us read{ttl}")
