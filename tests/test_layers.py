"""Imports go down only: a module may import from its own layer and from those before it in ORDER."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = [
    "errors",
    "files",
    "cores",
    "log",
    "metric",
    "genes",
    "cost",
    "models",
    "data",
    "published",
    "training",
    "search",
    "report",
    "export",
    "cli",
]
# Recipes compose the layers up to training; nobody imports a recipe by name.
RECIPES = "trainers"
LOADS_NO_TORCH = [
    "nasseg",
    "nasseg.metric",
    "nasseg.genes.space",
    "nasseg.genes.presets",
    "nasseg.cost.macs",
    "nasseg.models.costing",
    "nasseg.training.trial",
    "nasseg.search.study",
    "nasseg.search.store",
    "nasseg.cli.cost",
    "nasseg.cli.main",
    "nasseg.cli.space",
    "nasseg.cli.presets",
    "nasseg.cli.show",
]


def modules() -> dict[str, Path]:
    found = {}
    for folder, prefix in ((ROOT / "nasseg", "nasseg"), (ROOT / "trainers", "nasseg.trainers")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if folder.name == "nasseg" and parts[0] in ("trainers", "search_spaces"):
                continue
            found[".".join((prefix, *parts)).removesuffix(".__init__")] = path
    return found


def layer(module: str) -> str:
    name = module.split(".")[1] if "." in module else ""
    # python -m nasseg
    return "cli" if name == "__main__" else name


def imported(path: Path, known: set[str]) -> set[str]:
    """The nasseg modules a file names, at top level or inside a function, but not for type checking alone."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import on line {node.lineno}"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if whole in known else str(node.module))
    return {name for name in names if name == "nasseg" or name.startswith("nasseg.")}


MODULES = modules()
GRAPH = {name: imported(path, set(MODULES)) for name, path in MODULES.items()}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down_only(module: str) -> None:
    own = layer(module)
    for other in GRAPH[module]:
        theirs = layer(other)
        if "" in (own, theirs):
            # The public door opens onto every layer, lazily; of the package itself a module may ask the version.
            continue
        if own == RECIPES:
            assert theirs == RECIPES or ORDER.index(theirs) <= ORDER.index("training"), f"{module} imports {other}"
        else:
            assert theirs != RECIPES, f"{module} imports the recipe {other}; look recipes up by name"
            assert own in ORDER, f"{module} lies in no known layer"
            assert ORDER.index(theirs) <= ORDER.index(own), f"{module} imports upward: {other}"


def test_no_cycles() -> None:
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module in done or module not in GRAPH or module == "nasseg":
            return
        for other in sorted(GRAPH[module]):
            visit(other, [*path, module])
        done.add(module)

    for module in GRAPH.keys() - {"nasseg"}:
        visit(module, [])


@pytest.mark.parametrize("module", LOADS_NO_TORCH)
def test_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, f"importing {module} loads torch or ray"


def test_files_stay_readable() -> None:
    long = {name: n for name, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 450}
    assert not long, f"one noun a file, at most 450 lines: {long}"
    assert not [name for name in MODULES if "util" in name.rpartition(".")[2]]
