"""Random small spaces, and a second opinion on what they hold: every combination is spelled out and read as a genotype."""

from __future__ import annotations

import itertools
import random
from typing import Any

from nasseg.errors import ConfigError
from nasseg.genes.gene import STAGE_GENES, STAGES
from nasseg.genes.genotype import Genotype

POOL: dict[str, list[Any]] = {
    "fusion_stride": [4, 8],
    "attention": ["none", "own", "stage4", "stage3", "stage2"],
    "heads": ["native", 8, 4, 2],
    "key_stride": [8, 32, 64],
    "rank": [0, 1, "full"],
    "inputs": ["self", "all", [1], [4], [1, 2]],
    "pool_conv": [True, False],
    "query_pool": [1, 2],
    "lpm": ["none", "se", "eca"],
    "ffn": [0, 2, 4],
    "ffn_depthwise": [True, False],
    "residual": ["raw", "normalised"],
    "input_norm": [False, True],
    "softmax_scale": ["width", "rank"],
    "pool_edge": ["mean", "drop"],
    "lpm_residual": ["once", "twice"],
    "project": ["none", 64],
    "project_norm": ["none", "batch"],
    "fusion": ["concat", "fca", "ham"],
    "ham_rank": [16, 64],
    "fusion_width": [64, 128, 72],
}
CONDITIONS: list[dict[str, Any]] = [
    {"attention": "own"},
    {"attention": ["own", "stage4"]},
    {"fusion": "fca"},
    {"fusion_stride": 8, "attention": "own"},
]
MOST = 2_500
"""Combinations that are spelled out at most."""


def random_space(rng: random.Random) -> dict[str, Any]:
    """A space with a few open genes, ties, single stages and conditions; it may hold no network at all."""
    while True:
        genes: dict[str, Any] = {"fusion_stride": rng.choice([4, 8, 8])}
        for name, values in POOL.items():
            kind = rng.random()
            if kind < 0.35:
                continue
            some = rng.sample(values, rng.randint(1, min(3, len(values))))
            entry: dict[str, Any] = {"choices": some}
            if name in STAGE_GENES:
                entry |= rng.choice([{}, {"tie": "all"}, {"tie": "all"}, {"tie": rng.sample([2, 3, 4], 2)}])
                if name not in ("attention", "inputs") and kind > 0.85:
                    entry |= {"when": rng.choice(CONDITIONS), "else": rng.choice(values)}
            genes[name] = entry
        for stage in rng.sample(STAGES, 2):
            genes[f"stage{stage}.attention"] = rng.choice(["own", "none", {"choices": ["own", "none"]}])
        spec = {"genes": genes}
        if combinations(spec) <= MOST:
            return spec


def variables(spec: dict[str, Any]) -> list[tuple[tuple[str, ...], list[Any], dict[str, Any]]]:
    """Slots that share a value, the values they may have, and the entry they come from."""
    genes = spec["genes"]
    out = []
    for key, entry in genes.items():
        full = entry if isinstance(entry, dict) else {"value": entry}
        values = full.get("choices", [full.get("value")])
        if key not in STAGE_GENES:
            out.append(((key,), values, full))
            continue
        free = [i for i in STAGES if f"stage{i}.{key}" not in genes]
        tie = STAGES if full.get("tie") == "all" else tuple(full.get("tie", ()))
        groups = [tuple(i for i in free if i in tie), *((i,) for i in free if i not in tie)]
        out += [(tuple(f"stage{i}.{key}" for i in group), values, full) for group in groups if group]
    return out


def combinations(spec: dict[str, Any]) -> int:
    """How many ways there are to fill every slot, legal or not."""
    total = 1
    for _, values, _ in variables(spec):
        total *= len(values)
    return total


def brute_ids(spec: dict[str, Any]) -> set[str]:
    """The ids of all networks of a space, by reading every combination as a genotype and keeping those that are none."""
    found = set()
    slots = variables(spec)
    for answers in itertools.product(*(values for _, values, _ in slots)):
        raw: dict[str, Any] = {}
        entries: dict[str, dict[str, Any]] = {}
        for (names, _, entry), answer in zip(slots, answers, strict=True):
            raw |= dict.fromkeys(names, answer)
            entries |= dict.fromkeys(names, entry)
        for name, entry in entries.items():
            if "when" in entry and not met(entry["when"], name, raw):
                raw[name] = entry["else"]
        try:
            genotype = Genotype.from_dict(without_maps_of_others(raw))
        except ConfigError:
            continue
        if not reuses_a_uniform_map(raw, genotype):
            found.add(genotype.id)
    return found


def met(when: dict[str, Any], slot: str, raw: dict[str, Any]) -> bool:
    """Whether a condition holds; at a stage that is not kept it never matters."""
    for name, wanted in when.items():
        full = f"{slot.partition('.')[0]}.{name}" if name in STAGE_GENES else name
        value = raw.get(full, {"attention": "own", "fusion": "concat"}.get(name))
        if value not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def without_maps_of_others(raw: dict[str, Any]) -> dict[str, Any]:
    """Without the genes that a stage takes from the map it reuses."""
    reusing = [i for i in STAGES if str(raw.get(f"stage{i}.attention")).startswith("stage")]
    dropped = {f"stage{i}.{gene}" for i in reusing for gene in ("key_stride", "rank", "heads", "pool_edge", "softmax_scale", "query_pool")}
    return {key: value for key, value in raw.items() if key not in dropped}


def reuses_a_uniform_map(raw: dict[str, Any], genotype: Genotype) -> bool:
    """A space spells such a stage as own with rank 0, or not at all."""
    for i in genotype.kept:
        source = str(raw.get(f"stage{i}.attention"))
        genes = genotype.stage(int(source[5:])) if source.startswith("stage") else None
        if genes is not None and genes.rank == 0:
            return True
    return False
