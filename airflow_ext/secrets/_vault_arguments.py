"""Arguments of the backend as people give them: lists as text, numbers as text, other logins' names."""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_ext.vault.lease_model import SCOPES
from airflow_ext.vault.logins import Credentials
from airflow_ext.vault.settings import frozen_proxies

log = logging.getLogger(__name__)

PASSED_ON = ("cert", "namespace", "proxies", "request_header", "strict_http", "verify")
"""Arguments that hvac takes."""

OTHER_LOGINS = frozenset(
    {
        *("username", "password", "kubernetes_role", "kubernetes_jwt_path", "jwt_role", "jwt_token"),
        *("jwt_token_path", "key_id", "region", "gcp_key_path", "gcp_keyfile_dict", "azure_tenant_id"),
        *("azure_resource", "cert_role"),
    }
)
"""Arguments of ways to log in other than ``token`` and ``approle``."""

IGNORED = frozenset({"assume_role_kwargs", "gcp_scopes", "radius_host", "radius_secret", "radius_port"})
"""Arguments of the hashicorp provider that no login to Vault needs."""

KINDS = ("connection", "variable", "config")

Paths = str | Sequence[str] | None


def folders(paths: Paths, more: list[str]) -> tuple[str, ...]:
    """Return folders without slashes at their ends."""
    return tuple(each.strip("/") for each in [*texts("path", paths), *more])


def texts(name: str, value: Paths) -> list[str]:
    """Return a list given as such, as one text, or as JSON by an environment variable."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parsed(name, value)
    if value is None:
        return []
    found = [value] if isinstance(value, str) else list(value)
    if not all(isinstance(each, str) for each in found):
        raise ValueError(f"{name}={value!r}: give a text or a list of texts")
    return found


def parsed(name: str, value: Any) -> Any:
    """Return a value that may have come as JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError(f"{name} is text that is no JSON") from None


def number(name: str, value: float | str) -> float:
    """Return a number that may have come as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r}: give a number") from None


def switch(name: str, value: object) -> bool:
    """Return a switch that may have come as text."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if isinstance(value, bool):
        return value
    if str(value).lower() not in words:
        raise ValueError(f"{name}={value!r}: give true or false")
    return words[str(value).lower()]


def timeout(value: float | str | Sequence[float] | None) -> float | Sequence[float] | None:
    """Return seconds, or a pair, that may have come as text."""
    if not isinstance(value, str):
        return value
    try:
        found: float | list[float] = json.loads(value)
    except ValueError:
        raise ValueError(f"timeout={value!r}: give seconds, or [connect, read]") from None
    return found


def one_of(name: str, value: Any, allowed: Sequence[str] = SCOPES) -> Any:
    """Return a word that must be one of some."""
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: give one of {', '.join(allowed)}")
    return value


class Patterns:
    """Which ids are looked up in Vault at all.

    :param include: Regular expressions, one of which must fit the whole id; empty means all.
    :param exclude: Regular expressions of ids that are not.
    """

    def __init__(self, include: Paths, exclude: Paths) -> None:
        self._include = [compiled("include", each) for each in texts("include", include)]
        self._exclude = [compiled("exclude", each) for each in texts("exclude", exclude)]

    def allow(self, key: str) -> bool:
        """Tell if an id is looked up."""
        if self._include and not any(each.fullmatch(key) for each in self._include):
            return False
        return not any(each.fullmatch(key) for each in self._exclude)


def compiled(name: str, pattern: str) -> re.Pattern[str]:
    """Return a regular expression, or say which argument it is wrong in."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{name}={pattern!r} is no regular expression: {error}") from None


@dataclass(frozen=True)
class Route:
    """Where ids of a pattern are kept.

    :param pattern: Fits whole ids.
    :param mount: Mount of the engine; ``None`` means the backend's.
    :param path: Folder, or a path with ``{id}`` and groups of the pattern as ``{1}``.
    :param kind: ``connection``, ``variable`` or ``config``; ``None`` means all.
    :param version: Of the key-value engine; ``None`` means the backend's.
    :param namespace: Of mount and login; ``None`` means the backend's.
    """

    pattern: re.Pattern[str]
    path: str
    mount: str | None = None
    kind: str | None = None
    version: int | None = None
    namespace: str | None = None

    def place(self, key: str) -> str:
        """Return the path of an id that the pattern fits."""
        found = self.pattern.fullmatch(key)
        if "{" not in self.path:
            return f"{self.path}/{key}" if self.path else key
        groups = found.groups() if found is not None else ()
        values = {"id": key, **{str(number): text or "" for number, text in enumerate(groups, 1)}}
        return re.sub(r"\{(\w+)\}", lambda name: values.get(name[1], name[0]), self.path)


def routes(value: Any) -> tuple[Route, ...]:
    """Return routes given as objects ``{"pattern", "mount", "path", "kind", "kv", "namespace"}``."""
    found = []
    for each in parsed("routes", value) or []:
        if not isinstance(each, Mapping) or not isinstance(each.get("pattern"), str):
            raise ValueError(
                'routes: each is an object such as {"pattern": "team_.*", "path": "team/connections"}'
            )
        unknown = sorted(set(each) - {"pattern", "mount", "path", "kind", "kv", "namespace"})
        if unknown:
            raise ValueError(
                f"routes: {', '.join(unknown)} is not known; use pattern, mount, path, kind, kv, namespace"
            )
        if each.get("kind") is not None:
            one_of("routes: kind", each["kind"], KINDS)
        version = int(number("routes: kv", each["kv"])) if each.get("kv") is not None else None
        mount, path = each.get("mount"), str(each.get("path") or "").strip("/")
        found.append(
            Route(
                compiled("routes: pattern", each["pattern"]),
                path,
                str(mount).strip("/") if mount else None,
                each.get("kind"),
                version,
                each.get("namespace"),
            )
        )
    return tuple(found)


def credentials(kwargs: Mapping[str, Any]) -> Credentials:
    """Return what other ways to log in need, of the arguments that remain."""
    given = {key: value for key, value in kwargs.items() if key in OTHER_LOGINS and value is not None}
    key = given.pop("gcp_keyfile_dict", None)
    if key is not None:
        given["gcp_key"] = key if isinstance(key, str) else json.dumps(key)
    return Credentials(**given)


def _known(unknown: Sequence[str], known: Sequence[str]) -> str:
    import difflib  # only an error needs it

    near = {each: difflib.get_close_matches(each, known, 1) for each in unknown}
    if all(near.values()):
        return f"did you mean {', '.join(names[0] for names in near.values())}?"
    return f"it knows {', '.join(known)}"


def for_hvac(kwargs: Mapping[str, Any], known: Callable[..., Any]) -> dict[str, Any]:
    """Return what is passed on to hvac, of the arguments that remain.

    :param known: The constructor, whose own arguments are named in the error.
    :raises TypeError: If an argument is not known.
    """
    ignored = sorted(set(kwargs) & IGNORED)
    if ignored:
        log.warning("VaultBackend ignores %s: no login to Vault needs them", ", ".join(ignored))
    given = {key: value for key, value in kwargs.items() if key not in IGNORED | OTHER_LOGINS}
    if switch("allow_redirects", given.pop("allow_redirects", False)):
        raise ValueError(
            "allow_redirects=True is not accepted: the token would go along to wherever Vault redirects;"
            " set url to the active node or a load balancer"
        )
    unknown = sorted(set(given) - set(PASSED_ON))
    if unknown:
        ours = [
            name for name in inspect.signature(known).parameters if name not in ("self", "clock", "kwargs")
        ]
        raise TypeError(
            f"VaultBackend does not know {', '.join(unknown)}; {_known(unknown, [*ours, *sorted(OTHER_LOGINS), *PASSED_ON])}"
        )
    for name in ("request_header", "strict_http"):
        if name in given:
            given[name] = switch(name, given[name])
    if isinstance(given.get("verify"), str) and given["verify"].lower() in ("true", "false"):
        given["verify"] = given["verify"].lower() == "true"
    if isinstance(given.get("cert"), str) and given["cert"].lstrip().startswith("["):
        given["cert"] = parsed("cert", given["cert"])
    if "cert" in given and not isinstance(given["cert"], str | None):
        given["cert"] = tuple(given["cert"])
    if "proxies" in given:
        given["proxies"] = frozen_proxies(parsed("proxies", given["proxies"]))
    return given
