"""Make the manifest that draws a DAG, and let dbt resolve the selections that DAGs ask for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_ext.dbt.index import DbtIndex, content_key
from airflow_ext.dbt.locations import beside, write
from airflow_ext.dbt.manifest import read_index
from airflow_ext.dbt.process import Scrubber, quieted
from airflow_ext.dbt.profiles import ADAPTERS, Profile, placeholder_profile, profile_name
from airflow_ext.dbt.project import DbtProject
from airflow_ext.dbt.selection import (
    SUFFIX,
    Answers,
    Resolved,
    Selection,
    encode_answers,
    nothing_selected,
    of_a_run,
    select_ids,
)
from airflow_ext.exceptions import InvalidProjectError
from airflow_ext.extras import require

_CHILD = Path(__file__).with_name("parse_child.py")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_NOISE = re.compile(
    r"(\d\d:\d\d:\d\d\s+)?"
    r"(Running with dbt|Registered adapter|Encountered an error|Found \d|Error importing adapter|Unable to do partial parsing|$).*"
)
_DATABASE = ("dbname", "database", "catalog", "project", "path")
_SCHEMA = ("schema", "dataset")


@dataclass(frozen=True)
class ParseSettings:
    """How a project is parsed.

    :param adapter: Parse with a placeholder profile for this adapter; ``None`` takes the project's profiles.
    :param database: Database (project, catalog) that a placeholder profile names; ``None`` leaves it open.
    :param schema: Schema (dataset) that it names; ``None`` leaves it open.
    :param vars: dbt's variables.
    """

    adapter: str | None = None
    database: str | None = None
    schema: str | None = None
    vars: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.adapter is None and (self.database is not None or self.schema is not None):
            raise InvalidProjectError(
                f"database={self.database!r}, schema={self.schema!r}: only with an adapter, profiles.yml names its own"
            )


@dataclass(frozen=True)
class Parsed:
    """What was made.

    :param index: The graph of the new manifest.
    :param answers: Every selection that is resolved with it.
    :param dropped: Selections of the older file that dbt does not resolve any more, with dbt's words.
    :param remarks: What dbt had to say about terms that match nothing.
    """

    index: DbtIndex
    answers: Answers
    dropped: tuple[tuple[Selection, str], ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Listed:
    ids: tuple[str, ...]
    problem: str
    remarks: tuple[str, ...]


def make_manifest(
    project: DbtProject,
    *,
    selections: Sequence[Selection] = (),
    settings: ParseSettings | None = None,
    forget: bool = False,
) -> Parsed:
    """Parse a project, resolve selections, put manifest and selections in their place and warm the index.

    Nothing is written unless all went well. dbt writes to a temporary folder only.

    :param project: The project; its ``executable`` is used if it has one.
    :param selections: Selections to resolve now; those of the older file are resolved again.
    :param settings: How to parse; ``None`` means with the project's own profiles.
    :param forget: Resolve only the given ones.
    :raises InvalidProjectError: If the project cannot be parsed, a given selection cannot be resolved, depends on a run or is empty
        (dbt's own words are quoted), or the result cannot be written.
    """
    settings = settings or ParseSettings()
    older = project.answers(fresh=True)
    given = {one.key: one for one in selections if one.arguments()}
    if hopeless := next((one for one in given.values() if one.of_a_run), None):
        raise InvalidProjectError(of_a_run(hopeless), source=str(project.project_dir))
    known = {
        one.selection.key: one.selection for one in (older[0].selections if older and not forget else ())
    }
    wanted = list({**{key: one for key, one in known.items() if one.arguments()}, **given}.values())
    with tempfile.TemporaryDirectory(prefix="airflow-ext-dbt-") as folder:
        dbt = _Dbt(project, settings, Path(folder))
        content, listed = dbt.resolve(wanted)
    key = content_key(content)
    index = read_index(content, key=key, source=str(project.manifest))
    resolved, dropped = [], []
    for selection, found in listed:
        problem = found.problem
        if not problem and _is_empty(index, found) and (selection.key in given or selection.bare):
            problem = "; ".join(
                [nothing_selected(selection, source=str(project.project_dir)), *found.remarks]
            )
        if not problem:
            resolved.append(Resolved(selection, found.ids))
        elif selection.key in known and selection.key not in given:
            dropped.append((selection, problem))
        else:
            asked = (
                str(selection) if not selection.bare else f"the default selector {index.default_selector!r}"
            )
            raise InvalidProjectError(f"{asked}: {problem}", source=str(project.project_dir))
    answers = Answers(key, tuple(resolved))
    _put(project, content, answers, older)
    # Copies of remote files on this machine are brought up to date.
    project.answers(fresh=True)
    return Parsed(
        index=project.whole_index(fresh=True),
        answers=answers,
        dropped=tuple(dropped),
        remarks=tuple(dict.fromkeys(one for _, found in listed for one in found.remarks)),
    )


def _is_empty(index: DbtIndex, found: _Listed) -> bool:
    graph = select_ids(index, found.ids)
    return not (graph.nodes or graph.orphan_tests)


def _put(project: DbtProject, content: bytes, answers: Answers, older: Sequence[Answers]) -> None:
    try:
        if answers.selections or older:
            # First, and with what the manifest still in place was asked: a reader finds the answers of either.
            write(beside(project.manifest, SUFFIX), encode_answers([answers, *older[:1]]))
        write(project.manifest, content)
    except Exception as exc:
        raise InvalidProjectError(
            f"{project.manifest} cannot be written ({type(exc).__name__}: {exc}): give a place that can be with "
            "--out, and name it as manifest= of DbtProject",
            source=str(project.manifest),
        ) from exc


class _Dbt:
    """One parse and its lists, by the installed dbt or an executable."""

    def __init__(self, project: DbtProject, settings: ParseSettings, folder: Path) -> None:
        self.project, self.folder = project, folder
        name = profile_name(project.project_dir)
        self._env = {**quieted(os.environ), "NO_COLOR": "1"}
        profiles = project.profiles_dir
        if settings.adapter is not None:
            profile = placeholder_profile(settings.adapter, name=name, target=project.target)
            self._env.update(_placed(profile, settings))
            profiles = folder
            (folder / "profiles.yml").write_text(profile.text, encoding="utf-8")
        self._manifest = folder / "target" / "manifest.json"
        self._common = ["--project-dir", str(project.project_dir), "--profiles-dir", str(profiles)]
        self._common += ["--target-path", str(folder / "target"), "--log-path", str(folder / "logs")]
        self._common += ["--target", project.target] if project.target else []
        self._common += ["--vars", json.dumps(dict(settings.vars))] if settings.vars else []

    def resolve(self, selections: Sequence[Selection]) -> tuple[bytes, list[tuple[Selection, _Listed]]]:
        """Return the manifest and what each selection lists; the default selector's is added if there is one."""
        words = [one.arguments() for one in selections]
        if self.project.executable is None:
            answer = self._in_one_process(words)
        else:
            answer = self._by_executable(self.project.executable, words)
        if "problem" in answer:
            raise InvalidProjectError(
                f"dbt could not parse {self.project.project_dir}:\n{self._explained(answer['problem'])}",
                source=str(self.project.project_dir),
            )
        scrub = Scrubber(self._env)
        for listed in answer["listed"]:
            if "problem" in listed:
                listed["problem"] = scrub(listed["problem"])
        found = [(one, _listed(listed)) for one, listed in zip(selections, answer["listed"], strict=True)]
        if "default" in answer:
            found.append((Selection(), _listed(answer["default"])))
        return self._manifest.read_bytes(), found

    def _in_one_process(self, selections: list[list[str]]) -> dict[str, Any]:
        require("dbt.cli", extra="dbt")
        request, answer = self.folder / "request.json", self.folder / "answer.json"
        parse = ["--quiet", "parse", "--no-partial-parse", *self._common]
        asked = {"parse": parse, "list": ["--quiet", *_LIST, *self._common], "selections": selections}
        request.write_text(json.dumps(asked), encoding="utf-8")
        status, text = self._run([sys.executable, "-P", str(_CHILD), str(request), str(answer)])
        if status != 0:
            return {"problem": text or f"dbt ended with status {status}"}
        told: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return told

    def _by_executable(self, executable: str, selections: list[list[str]]) -> dict[str, Any]:
        if shutil.which(executable) is None:
            raise InvalidProjectError(
                f"there is no executable {executable!r}: give the path of a dbt, or leave --dbt (executable=) out "
                "for the dbt-core that is installed here",
                source=executable,
            )
        status, text = self._run([executable, "parse", *self._common])
        if status != 0:
            return {"problem": text or f"{executable} parse ended with status {status}"}
        if not self._manifest.is_file():
            return {"problem": text or f"{executable} parse ended well but wrote no manifest.json"}
        content = self._manifest.read_bytes()
        answer: dict[str, Any] = {"listed": [self._list(executable, words) for words in selections]}
        if read_index(content, key="", source=str(self.project.project_dir)).default_selector:
            answer["default"] = self._list(executable, [])
        # A list may write the file again, and what selections are kept for must be these bytes.
        self._manifest.write_bytes(content)
        return answer

    def _list(self, executable: str, selection: list[str]) -> dict[str, Any]:
        status, text = self._run([executable, *_LIST, *self._common, *selection])
        if status != 0:
            return {"problem": text or f"{executable} ls ended with status {status}", "remarks": []}
        lines = text.splitlines()
        return {
            "ids": [json.loads(line)["unique_id"] for line in lines if re.match(r'\{\s*"unique_id"', line)],
            "remarks": [line for line in lines if "does not match any" in line],
        }

    def _run(self, command: list[str]) -> tuple[int, str]:
        try:
            done = subprocess.run(
                command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as exc:
            raise InvalidProjectError(f"{command[0]} cannot be run: {exc}", source=command[0]) from exc
        lines = (_COLOURS.sub("", line).rstrip() for line in done.stdout.splitlines())
        said = [re.sub(r"^\d\d:\d\d:\d\d\s+", "", line) for line in lines if not _NOISE.fullmatch(line)]
        return done.returncode, "\n".join(said)

    def _explained(self, problem: str) -> str:
        text = Scrubber(self._env)(_COLOURS.sub("", problem).strip())
        if "Could not find profile named" in text:
            return f"{text}\nthere is no such profile: add --adapter NAME to parse without one, or --profiles-dir"
        missing = re.search(r"Could not find adapter type (\w+)", text)
        if missing is None:
            return text
        adapter = missing.group(1)
        package = placeholder_profile(adapter, name="-").package if adapter in ADAPTERS else f"dbt-{adapter}"
        where = f" where {self.project.executable} is" if self.project.executable is not None else ""
        return f"{text}\nthe adapter is not installed; install it{where}: pip install '{package}'"


_LIST = ("ls", "--output", "json", "--output-keys", "unique_id")


def _listed(answer: Mapping[str, Any]) -> _Listed:
    return _Listed(
        ids=tuple(sorted(answer.get("ids", ()))),
        problem=_COLOURS.sub("", answer.get("problem", "")).strip(),
        remarks=tuple(answer["remarks"]),
    )


def _placed(profile: Profile, settings: ParseSettings) -> dict[str, str]:
    """Return a placeholder profile's variables, with the warehouse's own names where they are given."""
    env = dict(profile.env)
    for value, fields, argument in (
        (settings.database, _DATABASE, "database"),
        (settings.schema, _SCHEMA, "schema"),
    ):
        if value is None:
            continue
        found = re.search(rf"^ +(?:{'|'.join(fields)}): .*env_var\('+(\w+)'", profile.text, re.MULTILINE)
        if found is None:
            raise InvalidProjectError(f"{argument}={value!r}: adapter {settings.adapter!r} takes none here")
        # DuckDB names the database after its file.
        env[found.group(1)] = f"{value}.duckdb" if "path: " in found.group() else value
    return env
