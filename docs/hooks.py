"""Pages that are made from other files when the site is built: pages of the repository, the verbs, the presets, the Python names."""

from __future__ import annotations

import importlib
import inspect
import posixpath
import re
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

import nasseg
from nasseg.cli.main import VERBS
from nasseg.genes.presets import PRESETS, describe_preset, preset, preset_text

ROOT = Path(__file__).resolve().parent.parent

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "search_spaces/README.md": "spaces.md",
    "results/README.md": "results/index.md",
    **{
        path.relative_to(ROOT).as_posix(): path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "results" / "reference").iterdir())
        if path.suffix in (".md", ".png")
    },
}
"""Files of the repository that are pages, or pictures of pages, of the site."""

LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")

BACKBONE, SIZE, CLASSES = "mit_b0", (512, 512), 150
"""What the published designs are costed on: the papers' most common setting."""

RETURNED = ("nasseg.cost.cost.Cost", "nasseg.cost.cost.Part", "nasseg.search.view.StudyView", "nasseg.search.view.TrialView")
"""Classes that the public functions return."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    for source, target in PAGES.items():
        path = ROOT / source
        content = path.read_bytes() if path.suffix == ".png" else relinked(path.read_text(encoding="utf-8"), source, target)
        files.append(File.generated(config, target, content=content))
    for target, text in {**verbs(), "api.md": api(), "designs.md": designs()}.items():
        files.append(File.generated(config, target, content=text))
    return files


def relinked(text: str, source: str, target: str) -> str:
    """The text of ``source`` with its relative links as they are from ``target``; raises where a link leads to no page of the site."""

    def replace(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        page = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if page is None:
            raise PluginError(f"{source}: {found[1]} is no page of the site; docs/hooks.py says which files are")
        return f"]({posixpath.relpath(page, posixpath.dirname(target) or '.')}{found[2] or ''})"

    return LINK.sub(replace, text)


def verbs() -> dict[str, str]:
    """A page for each verb from its own help, and their list."""
    rows = "\n".join(f"| [`nasseg {name}`]({name}.md) | {about} |" for name, about in VERBS.items())
    about = (
        "Every verb answers `--help`; these pages are made from the same text. Results go to standard output, log messages and errors to "
        "standard error. Exit codes: 0 done, 1 the run went wrong, 2 something given was wrong, 130 interrupted."
    )
    pages = {"verbs/index.md": f"# The verbs\n\n{about}\n\n| verb | what it does |\n|---|---|\n{rows}\n"}
    for name in VERBS:
        command = importlib.import_module(f"nasseg.cli.{name}").command
        pages[f"verbs/{name}.md"] = "\n".join(help_of(command, click.Context(command, info_name=f"nasseg {name}"), 1))
    return pages


def help_of(command: click.Command, context: click.Context, level: int) -> list[str]:
    """The help of a verb and of its sub-verbs as Markdown: what click prints, its options as a table."""
    lines = [f"{'#' * level} {context.command_path}", "", paragraphs(command.help or ""), ""]
    lines += ["```", command.get_usage(context).removeprefix("Usage: "), "```", ""]
    records = [record for parameter in command.params if (record := parameter.get_help_record(context)) and record[1]]
    if records:
        rows = [f"| {cell(f'`{names}`')} | {cell(escape(text))} |" for names, text in records]
        lines += ["| option | meaning |", "|---|---|", *rows, ""]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            lines += help_of(below, click.Context(below, info_name=name, parent=context), level + 1)
    return lines


def paragraphs(text: str) -> str:
    """A help text as Markdown; a paragraph that begins with click's ``\\b`` keeps its lines."""
    parts = re.split(r"\n\s*\n", inspect.cleandoc(text))
    return "\n\n".join(f"```\n{part[1:].strip(chr(10))}\n```" if part.startswith("\b") else escape(part) for part in parts)


def escape(text: str) -> str:
    """Text that Markdown would read: ``<`` and ``*`` stand for themselves."""
    return re.sub(r"([<*_\[\]])", r"\\\1", text)


def cell(text: str) -> str:
    """Text in one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def api() -> str:
    """The public names of nasseg, each with its documentation."""
    places = {name: f"{module}.{name}" for name, module in nasseg._HOMES.items()}
    places |= {package.removeprefix("nasseg."): call.replace(":", ".") for package, call in nasseg._CALLS.items()}
    parts = ["# Python\n\n`import nasseg` loads neither torch nor Ray; each of these names loads what it needs when it is first used.\n"]
    parts += [f"::: {places[name]}\n" for name in nasseg.__all__]
    parts += ["## What they return\n", *(f"::: {place}\n    options:\n      heading_level: 3\n" for place in RETURNED)]
    parts += ["## Errors\n", "::: nasseg.errors\n    options:\n      heading_level: 3\n      show_root_heading: false\n"]
    return "\n".join(parts)


def designs() -> str:
    """The published designs: cost, source, genes."""
    rows, parts = [], []
    for name in PRESETS:
        about, source = describe_preset(name)
        genes = "\n".join(line for line in preset_text(name).splitlines() if not line.startswith("#"))
        cost = nasseg.cost(preset(name, backbone=BACKBONE), size=SIZE, num_classes=CLASSES)
        rows.append(
            f"| [{name}](#{name}) | {cost.decoder_params / 1e6:.3f} | {cost.params / 1e6:.3f} | {cost.decoder_macs / 1e9:.3f} "
            f"| {cost.macs / 1e9:.3f} | {cost.macs_fvcore / 1e9:.3f} |"
        )
        parts.append(f"## {name}\n\n{about}\n\nSource: {source}\n\n```yaml\n{genes}\n```\n")
    about = (
        f"Each is a point of one space (`search_spaces/presets/`); a study starts from those that fit its budget. Cost on {BACKBONE} at "
        f"{SIZE[0]}×{SIZE[1]}, {CLASSES} classes, by nasseg's arithmetic; `bench/paper_tables.py` prints the published figures beside it."
    )
    head = "| design | decoder params (M) | params (M) | decoder MACs (G) | MACs (G) | as fvcore counts (G) |\n|---|--:|--:|--:|--:|--:|"
    return "\n".join(["# Published designs", "", about, "", head, *rows, "", *parts])
