"""What ``doctor`` looks at in the environment: versions, extras, provider, plugin, connection types."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.version import Version

from airflow_ext import __version__
from airflow_ext.cli.doctor_finding import Finding, fail, ok, warn
from airflow_ext.provider import get_provider_info
from airflow_ext.sla.channel import load

EXTRAS = {
    "dbt": ("dbt-core",),
    "dlt": ("dlt", "connectorx", "duckdb", "pyarrow"),
    "vault": ("hvac",),
}
_REFERENCE = "airflow_ext.sla.reference.SlaDeadline"
_INSTALL = "Install airflow-ext into the environment Airflow runs in: pip install airflow-ext."


def versions() -> Iterator[Finding]:
    """Airflow, Python and this package fit together."""
    airflow = version("apache-airflow-core")
    text = f"airflow-ext {__version__} on Airflow {airflow}, Python {platform.python_version()}"
    if Version("3.3") <= Version(airflow) < Version("4"):
        yield ok(text)
    else:
        yield fail(
            text, "airflow-ext works with Airflow 3.3 up to, not including, 4: change Airflow's version."
        )


def extras() -> Iterator[Finding]:
    """Each extra is there as a whole or not at all."""
    for extra, names in EXTRAS.items():
        found = {name: _version(name) for name in names}
        there = [f"{name} {found[name]}" for name in names if found[name]]
        missing = [name for name, known in found.items() if known is None]
        install = f"pip install 'airflow-ext[{extra}]'"
        if not missing:
            yield ok(f"extra [{extra}]: {', '.join(there)}")
        elif not there:
            yield ok(f"extra [{extra}] is not installed; when you need it: {install}")
        else:
            yield warn(
                f"extra [{extra}] is incomplete: {', '.join(there)}, but no {' and no '.join(missing)}",
                f"Complete it: {install}",
            )
    dbt = _version("dbt-core")
    if dbt is not None and Version(dbt) >= Version("1.12"):
        yield warn(
            f"dbt-core {dbt} downloads a helper from a code host while it is installed",
            "Where installations must not reach out, pin dbt-core<1.12.",
        )


def provider() -> Iterator[Finding]:
    """Airflow has discovered the provider."""
    from airflow.providers_manager import ProvidersManager

    found = ProvidersManager().providers.get("airflow-ext")
    if found is None:
        yield fail("Airflow does not see the provider airflow-ext", _INSTALL)
    elif found.version != __version__:
        yield warn(
            f"the provider's metadata says {found.version}, its code {__version__}",
            "Install airflow-ext again; two copies may be on the path.",
        )
    else:
        yield ok(f"provider airflow-ext {found.version} is discovered")


def plugin() -> Iterator[Finding]:
    """The plugin is loaded and its deadline reference registered."""
    from airflow import plugins_manager

    loaded = {item["name"] for item in plugins_manager.get_plugin_info()}
    errors = plugins_manager.get_import_errors()
    ours = [text for source, text in errors.items() if "airflow_ext" in source or "airflow-ext" in source]
    if "airflow_ext" in loaded:
        yield ok("plugin airflow_ext is loaded")
    else:
        reason = f": {ours[0]}" if ours else ""
        yield fail(f"plugin airflow_ext is not loaded{reason}", _INSTALL)
    if _REFERENCE in plugins_manager.get_deadline_references_plugins():
        yield ok("deadline reference of sla() is registered")
    else:
        yield fail(
            "deadline reference of sla() is not registered: runs of DAGs with sla() get no deadline",
            "See why the plugin is not loaded: airflow plugins.",
        )
    for source, text in errors.items():
        if text not in ours:
            yield warn(
                f"another plugin does not load: {source}: {_first_line(text)}", "See: airflow plugins."
            )


def connection_types() -> Iterator[Finding]:
    """Our connection types lead to our hooks, and no other provider claims them."""
    from airflow.providers_manager import ProvidersManager

    installed = ProvidersManager().providers
    for item in get_provider_info()["connection-types"]:
        name, ours = item["connection-type"], item["hook-class-name"]
        claims = {
            provider: entry["hook-class-name"]
            for provider, info in installed.items()
            for entry in info.data.get("connection-types", [])
            if entry["connection-type"] == name
        }
        others = sorted(provider for provider, hook in claims.items() if hook != ours)
        if others:
            winner = min(claims)  # providers register in the order of their names, the first one wins
            yield warn(
                f"connection type {name} is also registered by {', '.join(others)}; the form comes from {winner}",
                "Uninstall one of them, or fill in the connection as JSON in its extra field.",
            )
        elif claims and not importable(ours):
            yield fail(
                f"connection type {name} is registered, but its hook {ours} cannot be imported",
                f'See why: python -c "import {ours.rpartition(".")[0]}".',
            )
        elif claims:
            yield ok(f"connection type {name} is registered")
        else:
            yield fail(f"connection type {name} is not registered", _INSTALL)


def importable(path: str) -> bool:
    """Return whether the object at a dotted path can be imported here."""
    try:
        load(path)
    except Exception:  # noqa: BLE001 - it imports other people's code
        return False
    return True


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _first_line(text: Any) -> str:
    return (str(text).strip().splitlines() or [""])[0]
