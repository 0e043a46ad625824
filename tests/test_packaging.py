"""What is installed is what is in the tree: folders, links, guard, wheel by way of sdist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import nasseg
from nasseg.files import read_yaml

ROOT = Path(__file__).resolve().parent.parent


def listed() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])


def test_every_folder_is_a_listed_package() -> None:
    folders = {"nasseg"}
    homes = {"nasseg": "nasseg", "trainers": "nasseg.trainers", "search_spaces": "nasseg.search_spaces"}
    for top, prefix in ((ROOT / folder, prefix) for folder, prefix in homes.items()):
        for init in top.rglob("__init__.py"):
            inside = init.parent.relative_to(top).parts
            if top.name == "nasseg" and inside[:1] in (("trainers",), ("search_spaces",)):
                continue
            folders.add(".".join((prefix, *inside)))
    assert folders == listed()


@pytest.mark.parametrize("name", ["trainers", "search_spaces"])
def test_links_lead_to_the_top_level(name: str) -> None:
    link = ROOT / "nasseg" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"


@pytest.mark.parametrize("name", ["trainers", "search_spaces"])
def test_guard_refuses_the_bare_name(name: str) -> None:
    ran = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert f"this package is nasseg.{name}" in ran.stderr


def test_every_dependency_says_who_needs_it() -> None:
    inside = False
    for line in (ROOT / "pyproject.toml").read_text().splitlines():
        if line.startswith("]"):
            inside = False
        if inside:
            assert "# " in line, line
        if line.startswith(("dependencies", "dev =", "docs =")):
            inside = True


def test_citation_names_the_version_and_the_licence() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert nasseg.__version__ == project["version"]


@pytest.mark.xdist_group("build")
def test_wheel_by_way_of_sdist_holds_everything(tmp_path: Path) -> None:
    # From a copy, so that no build folder is left in the tree.
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout: the tracked files are not known")
    source.mkdir()
    subprocess.run(["tar", "--null", "-cf", str(tmp_path / "s.tar"), "-T", "-"], cwd=ROOT, input=tracked.stdout, text=True, check=True)
    subprocess.run(["tar", "-xf", str(tmp_path / "s.tar"), "-C", str(source)], check=True)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source)]
    ran = subprocess.run(build, capture_output=True, text=True, check=False)
    printed = ran.stdout + ran.stderr
    assert ran.returncode == 0, printed[-4000:]
    # setuptools warns of folders that look like packages and are not listed, and of metadata on its way out.
    warned = re.search(r"^WARNING .*|^.*Warning: .*", printed, re.MULTILINE)
    assert warned is None, warned
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"nasseg"}
    schedules = [f"trainers/schedules/{path.name}" for path in sorted((ROOT / "trainers" / "schedules").glob("*.yaml"))]
    assert schedules
    files = (
        *schedules,
        "trainers/proxy.py",
        "trainers/full.py",
        "search_spaces/decoder.yaml",
        "search_spaces/presets/scaseg.yaml",
        "py.typed",
    )
    for needed in files:
        assert f"nasseg/{needed}" in names
    metadata = zipfile.ZipFile(wheel).read("nasseg-0.1.0.dist-info/METADATA").decode()
    assert "License-Expression: Apache-2.0\n" in metadata
    assert "nasseg-0.1.0.dist-info/licenses/LICENSE" in names
    # What is installed finds its schedules, away from the tree.
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = "from nasseg.training import schedules as s; print(s.__file__); print(*(s.load_schedule(n).name for n in s.schedule_names()))"
    surroundings = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    place, said = ran.stdout.splitlines()
    assert place.startswith(str(tmp_path / "installed"))
    assert said.split() == [Path(name).stem for name in schedules]
