from __future__ import annotations

import os
import tomllib

from tests.paths import ROOT


def _packages_on_disk() -> set[str]:
    found = set()
    for folder, folders, files in os.walk(ROOT / "airflow_ext", followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        if "__init__.py" in files:
            found.add(os.path.relpath(folder, ROOT).replace(os.sep, "."))
    return found


def test_every_package_is_listed() -> None:
    """A package that is not listed would be left out of the wheel without an error."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert _packages_on_disk() == set(settings["packages"])


def test_links_lead_to_their_top_level_folders() -> None:
    for name in ("operators", "sensors"):
        link = ROOT / "airflow_ext" / name
        assert link.is_symlink(), f"{link} must be a link to ../{name}"
        assert os.readlink(link) == f"../{name}"  # noqa: PTH115  the text of the link is what is tested


def test_version_is_the_same_everywhere() -> None:
    import airflow_ext

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert airflow_ext.__version__ == project["version"]
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()
