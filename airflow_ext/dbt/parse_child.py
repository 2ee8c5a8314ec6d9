"""Parse a project and list selections of it in one dbt process. A script: ``python -P parse_child.py REQUEST ANSWER``.

Importing dbt and parsing is what costs; every further question to the same process is cheap. Only the standard
library and dbt are imported here.

``REQUEST`` is a JSON file with ``parse`` and ``list``, the arguments of the commands without a selection, and
``selections``, a list of arguments each. ``ANSWER`` is written at the end: ``problem`` if the project does not parse,
else ``listed`` with ``ids`` or ``problem`` and ``remarks`` for each selection, and ``default`` likewise if the project
has a default selector.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(argv: list[str]) -> int:
    """Answer the request ``argv[1]`` in the file ``argv[2]``."""
    request = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    Path(argv[2]).write_text(json.dumps(_answer(request)), encoding="utf-8")
    return 0


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from dbt.cli.main import dbtRunner

    parsed = dbtRunner().invoke(request["parse"])
    if not parsed.success:
        return {"problem": str(parsed.exception or "dbt parse failed")}
    manifest: Any = parsed.result
    remarks: list[str] = []

    def on_event(event: Any) -> None:
        if event.info.name == "NoNodesForSelectionCriteria":
            remarks.append(event.info.msg)

    def listed(selection: list[str]) -> dict[str, Any]:
        remarks.clear()
        outcome = dbtRunner(manifest=manifest, callbacks=[on_event]).invoke([*request["list"], *selection])
        if not outcome.success:
            return {"problem": str(outcome.exception or "dbt ls failed"), "remarks": []}
        ids = [json.loads(line)["unique_id"] for line in outcome.result or ()]  # type: ignore[union-attr]  # a list here
        return {"ids": ids, "remarks": list(dict.fromkeys(remarks))}

    answer: dict[str, Any] = {"listed": [listed(selection) for selection in request["selections"]]}
    if any(one.get("default") is True for one in manifest.selectors.values()):
        answer["default"] = listed([])
    return answer


if __name__ == "__main__":
    sys.exit(main(sys.argv))
