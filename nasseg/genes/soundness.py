"""What cannot be seen from one gene alone: spaces without a network, values no network can have, genes that nothing reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nasseg.errors import Problem
from nasseg.genes.binding import Entry
from nasseg.genes.counting import Grammar
from nasseg.genes.gene import GENES, HAM_GROUPS, STAGE_GENES, STAGES
from nasseg.genes.slots import slot_name
from nasseg.genes.spacefile import SpaceFile
from nasseg.genes.variable import plain

_WHY = {
    "attention": "a reused map must belong to a deeper stage whose attention is own with a rank above 0",
    "inputs": "maps are pooled to the key grid, never upsampled, so no input's stride may be above key_stride",
    "fusion_width": f"with fusion ham it is a multiple of {HAM_GROUPS}",
}


def dead_end(grammar: Grammar, file: SpaceFile) -> list[Problem]:
    """The one problem of a space that holds no genotype: the slot where every way ends. Empty if there is a genotype."""
    slot = grammar.deadlock()
    if slot is None:
        return []
    gene = slot.rpartition(".")[2]
    source = slot if slot in file.genes else gene
    rule = f"no network of this space is legal: {_WHY.get(gene, 'its values go with none of those that the other genes have')}"
    given = file.genes.get(source)
    return [Problem(file.origin.get(source, file.where), f"genes.{slot}", rule, None if given is None else plain(given))]


def unused(file: SpaceFile, given: Mapping[str, Entry], values: Mapping[str, set[Any]]) -> list[Problem]:
    """Problems of the keys that the last file wrote itself.

    These are a gene of one stage, or one with several values, that nothing reads; a condition that is never met; a value that no network
    has. ``values`` holds, by slot, those that :meth:`nasseg.genes.counting.Grammar.used` found. Keys of an extended space may lie idle: a
    space that settles one gene need not take the values out that this makes impossible.
    """
    problems = []
    for key, entry in given.items():
        if key not in file.own or key.startswith("train."):
            continue
        name = key.rpartition(".")[2]
        if "." in key:
            stages: tuple[int, ...] = (int(key[5]),)
        else:
            stages = tuple(i for i in STAGES if slot_name(name, i) not in given) if key in STAGE_GENES else (0,)
        slots = {slot_name(name, i): i for i in stages}
        shown = f"genes.{key}"
        several = len(entry.values) > 1
        if not any(slot in values for slot in slots):
            if several or "." in key:
                problems.append(
                    Problem(entry.where, shown, f"nothing reads this gene in this space: it is read when {GENES[name].active_when}")
                )
            continue
        for raw in entry.values if several or entry.when is not None else ():
            if not any(GENES[name].check(raw, i) in values.get(slot, ()) for slot, i in slots.items()):
                rule = (
                    "no network of this space can have this value"
                    if entry.when is None
                    else "no network of this space meets the condition with this value"
                )
                problems.append(Problem(entry.where, shown, f"{rule}{_because(name)}", raw))
    return problems


def _because(gene: str) -> str:
    return f": {_WHY[gene]}" if gene in _WHY else ""
