"""Where the contract commands read files from: paths, folders, a commit of git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from airflow_ext.contracts.sources import SUFFIXES, contract_files, file_text
from airflow_ext.exceptions import InvalidError

GIT_SECONDS = 60


def read_paths(paths: Sequence[str]) -> dict[str, str]:
    """Return the texts of files, and of all contract files below folders, by path.

    :raises InvalidError: If a path is not there, cannot be read, or a folder holds no contract.
    """
    texts: dict[str, str] = {}
    for given in paths:
        path = Path(given)
        for file in contract_files(path) if path.is_dir() else [path]:
            texts[str(file)] = file_text(file)
    return texts


def read_commit(ref: str, paths: Sequence[str]) -> dict[str, str]:
    """Return the texts of the same files as they were in a commit, by the path they have now.

    :param ref: Branch, tag or commit.
    :param paths: Files and folders of one repository.
    :raises InvalidError: If git is not there, the ref is not known, or a path is in no repository.
    """
    texts: dict[str, str] = {}
    for given in paths:
        path = Path(given)
        folder = path if path.is_dir() else path.parent
        top = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
        commit = _commit(folder, ref)
        inside = os.path.relpath(path.resolve(), top.resolve())
        listed = _git(folder, "ls-tree", "-r", "-z", "--name-only", "--full-tree", commit, "--", inside)
        for name in filter(None, listed.split("\0")):
            if path.is_dir() and not name.lower().endswith(SUFFIXES):
                continue
            now = str(path / os.path.relpath(name, inside)) if path.is_dir() else given
            texts[now] = _git(folder, "show", f"{commit}:{name}")
    return texts


def _commit(folder: Path, ref: str) -> str:
    if not ref or ref.startswith("-"):
        raise InvalidError(f"--base {ref!r} is no branch, tag or commit")
    try:
        return _git(folder, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").strip()
    except InvalidError:
        raise InvalidError(
            f"--base {ref!r}: git knows no such branch, tag or commit here; in CI fetch it first "
            "(actions/checkout: fetch-depth: 0)"
        ) from None


def _git(folder: Path, *words: str) -> str:
    if not folder.is_dir():
        raise InvalidError(f"{folder}: no such folder")
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, check=False, timeout=GIT_SECONDS
        )
    except FileNotFoundError:
        raise InvalidError("--base needs git on the PATH") from None
    except subprocess.TimeoutExpired:
        raise InvalidError(f"git {words[0]} did not end within {GIT_SECONDS} s") from None
    if done.returncode:
        problem = (done.stderr.decode(errors="replace").strip().splitlines() or ["it failed"])[-1]
        raise InvalidError(f"git {words[0]}: {problem}")
    try:
        return done.stdout.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidError(f"git {' '.join(words)}: not UTF-8 text") from None
