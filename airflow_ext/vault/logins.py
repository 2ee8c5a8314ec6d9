"""What is sent to log in, for every way to log in.

Sources: the API pages of each auth method in Vault's documentation.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow_ext.exceptions import InvalidError, VaultDeniedError

BY_USER = ("userpass", "ldap", "radius")
MOUNTS = {"aws_iam": "aws", "oidc": "jwt"}
"""Where a method is mounted by default, where that is not its name."""

AUTH_TYPES = (
    *("token", "approle", "kubernetes", "jwt", "oidc", *BY_USER),
    *("github", "cert", "aws_iam", "gcp", "azure"),
)
"""Ways to log in."""

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/token"
AZURE_METADATA = "http://169.254.169.254"
AZURE_LOGIN = "https://login.microsoftonline.com"
AZURE_RESOURCE = "https://management.azure.com/"
GCP_METADATA = "metadata.google.internal"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Who we are, for all ways to log in but a given token and AppRole; nothing in it is ever printed.

    :param username: For ``userpass``, ``ldap``, ``radius``.
    :param password: Its password.
    :param kubernetes_role: Vault role, for ``kubernetes``.
    :param kubernetes_jwt_path: File with the service account's token; read at each login, as it is renewed.
    :param jwt_role: Vault role, for ``jwt`` and ``oidc``; ``None`` means the default role.
    :param jwt_token: The token itself.
    :param jwt_token_path: File with it; read at each login.
    :param key_id: Access key of ``aws_iam``, client id of ``azure``.
    :param region: For ``aws_iam``.
    :param gcp_key_path: File with a service account's key, for ``gcp``; without one, the metadata server is asked.
    :param gcp_key: That key as JSON text.
    :param azure_tenant_id: For ``azure`` with a client id and secret; without, the managed identity is used.
    :param azure_resource: What the token is asked for.
    :param cert_role: Vault role, for ``cert``; ``None`` lets Vault find it by the certificate.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    kubernetes_role: str | None = None
    kubernetes_jwt_path: str = SERVICE_ACCOUNT
    jwt_role: str | None = None
    jwt_token: str | None = field(default=None, repr=False)
    jwt_token_path: str | None = None
    key_id: str | None = field(default=None, repr=False)
    region: str = "us-east-1"
    gcp_key_path: str | None = None
    gcp_key: str | None = field(default=None, repr=False)
    azure_tenant_id: str | None = None
    azure_resource: str = AZURE_RESOURCE
    cert_role: str | None = None


@dataclass(frozen=True)
class LoginCall:
    """One request that logs in.

    :param path: Path below ``/v1/``.
    :param body: Its body; holds secrets and is never printed.
    """

    path: str
    body: Mapping[str, Any] = field(repr=False)


def trouble_with_arguments(
    auth_type: str, who: Credentials, role_id: str | None, secret_id: str | None
) -> str | None:
    """Return what an auth type needs and was not given, or cannot use, as a sentence, or ``None``."""
    needed: dict[str, tuple[bool, str]] = {
        **{each: (bool(who.username and who.password), "username and password") for each in BY_USER},
        "approle": (bool(role_id), "role_id (and secret_id, unless the role binds none)"),
        "kubernetes": (bool(who.kubernetes_role), "kubernetes_role"),
        "jwt": (bool(who.jwt_token or who.jwt_token_path), "jwt_token or jwt_token_path"),
        "oidc": (
            bool(who.jwt_token or who.jwt_token_path),
            "jwt_token or jwt_token_path (a browser is no way for a task)",
        ),
        "aws_iam": (
            bool(role_id) and bool(who.key_id) == bool(secret_id),
            "role_id, and key_id together with secret_id or neither",
        ),
        "gcp": (bool(role_id), "role_id, the name of the role in Vault"),
        "azure": (bool(role_id), "role_id, the name of the role in Vault"),
    }
    fine, what = needed.get(auth_type, (True, ""))
    if fine and auth_type in BY_USER and ("/" in str(who.username) or who.username in (".", "..")):
        return f"username={who.username!r}: it ends the path of the login, and with '/' or as dots alone would be another path"
    return None if fine else f"auth_type={auth_type!r} needs {what}"


def login_call(
    auth_type: str,
    mount: str | None,
    who: Credentials,
    *,
    role_id: str | None = None,
    secret_id: str | None = None,
    token: str | None = None,
    address: str = "",
) -> LoginCall:
    """Return the request that logs in; for some methods another service is asked first.

    :param mount: Where the method is mounted; ``None`` means its usual place.
    :param token: GitHub's, for ``github``.
    :param address: Of Vault, which a Google token is made out to.
    :raises VaultDeniedError: If what is needed cannot be had: a file that is not there, a refusing service.
    """
    place = f"auth/{(mount or MOUNTS.get(auth_type, auth_type)).strip('/')}/login"
    if auth_type in BY_USER:
        return LoginCall(f"{place}/{who.username}", {"password": who.password})
    if auth_type == "approle":
        sent = {"role_id": role_id, "secret_id": secret_id}
        return LoginCall(place, {key: value for key, value in sent.items() if value is not None})
    if auth_type == "cert":
        return LoginCall(place, {"name": who.cert_role} if who.cert_role else {})
    makers: dict[str, Callable[[], Mapping[str, Any]]] = {
        "kubernetes": lambda: {
            "role": who.kubernetes_role,
            "jwt": _file("kubernetes_jwt_path", who.kubernetes_jwt_path),
        },
        "jwt": lambda: _jwt(who),
        "oidc": lambda: _jwt(who),
        "github": lambda: {"token": token},
        "aws_iam": lambda: _aws(who, str(role_id), secret_id),
        "gcp": lambda: _gcp(who, str(role_id), address),
        "azure": lambda: _azure(who, str(role_id), secret_id),
    }
    return LoginCall(place, makers[auth_type]())


def _file(argument: str, path: str) -> str:
    try:
        text = Path(path).read_text().strip()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise VaultDeniedError(f"{argument}={path!r} cannot be read ({reason})", path=path) from None
    if not text:
        raise VaultDeniedError(f"{argument}={path!r} is empty: put a token there", path=path)
    return text


def _jwt(who: Credentials) -> dict[str, Any]:
    token = who.jwt_token or _file("jwt_token_path", str(who.jwt_token_path))
    return {"jwt": token} | ({"role": who.jwt_role} if who.jwt_role else {})


# ------------------------------------------------------------------------------------------ cloud providers


def _aws(who: Credentials, role: str, secret: str | None) -> dict[str, Any]:
    from hvac import aws_utils  # type: ignore[import-untyped]  # it ships no types

    key, session = who.key_id, None
    if key is None:
        key, secret, session = _aws_environment()
    request = aws_utils.generate_sigv4_auth_request()
    aws_utils.SigV4Auth(key, secret, session, who.region).add_auth(request)
    headers = json.dumps({name: [value] for name, value in request.headers.items()})

    def encoded(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    return {
        "role": role,
        "iam_http_request_method": request.method,
        "iam_request_url": encoded(request.url),
        "iam_request_headers": encoded(headers),
        "iam_request_body": encoded(request.body),
    }


def _aws_environment() -> tuple[str, str, str | None]:
    """Return key, secret and session token of the environment, or of the machine where boto3 is installed."""
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        return key, secret, os.environ.get("AWS_SESSION_TOKEN")
    text = (
        "auth_type='aws_iam': no key_id, no AWS_ACCESS_KEY_ID and no credentials from boto3: give one of them"
    )
    try:
        import boto3  # type: ignore[import-not-found, unused-ignore]  # comes with the amazon provider
    except ImportError:
        raise VaultDeniedError(text, path="auth/aws/login") from None
    found = boto3.Session().get_credentials()
    if found is None:
        raise VaultDeniedError(text, path="auth/aws/login")
    frozen = found.get_frozen_credentials()
    return frozen.access_key, frozen.secret_key, frozen.token


def _gcp(who: Credentials, role: str, address: str) -> dict[str, Any]:
    if who.gcp_key or who.gcp_key_path:
        text = who.gcp_key or _file("gcp_key_path", str(who.gcp_key_path))
        return {"role": role, "jwt": _signed_by_service_account(text, role)}
    host = os.environ.get("GCE_METADATA_HOST", GCP_METADATA)
    audience = quote(f"{address}/vault/{role}" if address else f"vault/{role}", safe="")
    url = f"http://{host}/computeMetadata/v1/instance/service-accounts/default/identity?audience={audience}&format=full"
    return {
        "role": role,
        "jwt": _fetch("Google's metadata server", url, {"Metadata-Flavor": "Google"}).strip(),
    }


def _signed_by_service_account(key: str, role: str) -> str:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        account = json.loads(key)
        private: Any = load_pem_private_key(account["private_key"].encode(), password=None)
        head = {"alg": "RS256", "typ": "JWT", "kid": account["private_key_id"]}
        claims = {"sub": account["client_email"], "aud": f"vault/{role}", "exp": int(time.time()) + 600}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidError("the key for auth_type='gcp' is no service account's key in JSON") from None

    def encoded(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    unsigned = ".".join(encoded(json.dumps(each).encode()) for each in (head, claims))
    return f"{unsigned}.{encoded(private.sign(unsigned.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _azure(who: Credentials, role: str, secret: str | None) -> dict[str, Any]:
    base = os.environ.get("AZURE_POD_IDENTITY_AUTHORITY_HOST", AZURE_METADATA).rstrip("/")
    flag = {"Metadata": "true"}
    if who.azure_tenant_id and who.key_id and secret:
        login = os.environ.get("AZURE_AUTHORITY_HOST", AZURE_LOGIN).rstrip("/")
        form = {
            "grant_type": "client_credentials",
            "client_id": who.key_id,
            "client_secret": secret,
            "resource": who.azure_resource,
        }
        text = _fetch("Azure's login", f"{login}/{who.azure_tenant_id}/oauth2/token", {}, form)
        return {"role": role, "jwt": _key(text, "access_token", "Azure's login")}
    resource = quote(who.azure_resource, safe="")
    url = f"{base}/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}"
    token = _key(_fetch("Azure's metadata server", url, flag), "access_token", "Azure's metadata server")
    machine = json.loads(
        _fetch("Azure's metadata server", f"{base}/metadata/instance?api-version=2021-02-01", flag)
    )
    place = {
        "subscription_id": machine["compute"].get("subscriptionId"),
        "resource_group_name": machine["compute"].get("resourceGroupName"),
        "vm_name": machine["compute"].get("name"),
        "vmss_name": machine["compute"].get("vmScaleSetName"),
    }
    return {"role": role, "jwt": token, **{key: value for key, value in place.items() if value}}


def _key(text: str, name: str, service: str) -> str:
    try:
        return str(json.loads(text)[name])
    except (ValueError, KeyError, TypeError):
        raise VaultDeniedError(f"{service} gave an answer without {name}") from None


def _fetch(service: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None = None) -> str:
    import requests

    try:
        response = requests.request(
            "POST" if form else "GET",
            url,
            headers=dict(headers),
            data=form,
            timeout=(0.5, 5),
            allow_redirects=False,
        )
    except requests.RequestException as error:
        text = f"{service} cannot be reached ({type(error).__name__}): is this machine one of its?"
        raise VaultDeniedError(text) from None
    if response.status_code != 200:
        raise VaultDeniedError(
            f"{service} gave no token (status {response.status_code})", status=response.status_code
        )
    return response.text
