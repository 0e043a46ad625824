"""From what a space file says to what it means: one binding per gene and stage, one setting per training gene."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasseg.errors import Problem, nearest
from nasseg.genes.counting import Binding
from nasseg.genes.gene import GENES, GLOBAL_GENES, STAGE_GENES, STAGES
from nasseg.genes.genotype import Genotype
from nasseg.genes.slots import CHAIN, DEFAULT, slot_name, to_values
from nasseg.genes.spacefile import ENTRY_KEYS, SpaceFile
from nasseg.genes.variable import Choices, Condition, Scalar, Setting, plain


@dataclass(frozen=True)
class Entry:
    """What stands behind one key of ``genes``, its form checked and its values not yet."""

    key: str
    where: str
    values: tuple[Any, ...] = ()
    range: tuple[Any, Any] | None = None
    step: Any = 1
    log: Any = False
    when: Mapping[str, Any] | None = None
    otherwise: Any = None
    tie: tuple[int, ...] = ()


def entries(file: SpaceFile, problems: list[Problem]) -> dict[str, Entry]:
    """Every key's entry."""
    return {key: _entry(key, raw, file.origin[key], problems) for key, raw in file.genes.items()}


def _entry(key: str, raw: Any, where: str, problems: list[Problem]) -> Entry:
    shown = f"genes.{key}"
    if not isinstance(raw, Mapping):
        return Entry(key, where, values=(raw,))
    found = len(problems)
    for name in raw:
        if name not in ENTRY_KEYS:
            problems.append(
                Problem(where, f"{shown}.{name}", f"a gene has the keys {', '.join(ENTRY_KEYS)}", None, nearest(name, ENTRY_KEYS))
            )
    ranged = "low" in raw or "high" in raw
    if ("value" in raw) + ("choices" in raw) + ranged != 1:
        problems.append(Problem(where, shown, "wants one of value, choices, or low and high", dict(raw) or None))
    choices = raw.get("choices", [raw["value"]] if "value" in raw else [])
    if not isinstance(choices, list) or ("choices" in raw and not choices):
        problems.append(Problem(where, f"{shown}.choices", "is a list with at least one value", choices))
    bounds = None
    if ranged:
        if not key.startswith("train."):
            problems.append(Problem(where, shown, "a range is for train.* alone; list the values of a decoder's gene under choices"))
        elif "low" not in raw or "high" not in raw:
            problems.append(Problem(where, shown, "a range wants both low and high"))
        else:
            bounds = (raw["low"], raw["high"])
    for name in ("step", "log"):
        if name in raw and not ranged:
            problems.append(Problem(where, f"{shown}.{name}", "goes with low and high alone"))
    when = raw.get("when")
    if when is not None and (not isinstance(when, Mapping) or not when):
        problems.append(Problem(where, f"{shown}.when", "is a mapping of genes to a value or a list of values", when))
    if "else" in raw and when is None:
        problems.append(Problem(where, f"{shown}.else", "is the value where when does not hold; there is no when"))
    tie = _tie(key, raw.get("tie"), where, problems)
    if len(problems) > found:
        return Entry(key, where)
    return Entry(key, where, tuple(choices), bounds, raw.get("step", 1), raw.get("log", False), when, raw.get("else"), tie)


def _tie(key: str, raw: Any, where: str, problems: list[Problem]) -> tuple[int, ...]:
    if raw is None:
        return ()
    if key not in STAGE_GENES:
        problems.append(Problem(where, f"genes.{key}.tie", "joins stages; it goes with a stage gene that is named without its stage", raw))
        return ()
    if raw == "all":
        return STAGES
    if isinstance(raw, list) and len(raw) > 1 and len(set(map(str, raw))) == len(raw) and all(type(i) is int and i in STAGES for i in raw):
        return tuple(raw)
    problems.append(
        Problem(where, f"genes.{key}.tie", "is 'all' or a list of at least two stages out of 1, 2, 3, 4, each once", raw, "all")
    )
    return ()


def bind(file: SpaceFile, given: Mapping[str, Entry], problems: list[Problem]) -> list[Binding]:
    """A binding for every gene at every stage: from its own entry, the entry for all stages, the base genotype, or the default."""
    base = to_values(file.genotype) if isinstance(file.genotype, Genotype) else {}
    bindings: dict[str, Binding] = {}
    for gene, stage in CHAIN:
        if gene in GENES:
            slot = slot_name(gene, stage)
            value = base.get(slot)
            if value is None and gene not in ("backbone", "inputs"):
                value = GENES[gene].check(GENES[gene].default, stage)
            bindings[slot] = Binding(gene, stage, DEFAULT if value is None and gene == "inputs" else value)
    for key, entry in given.items():
        if not entry.values:
            continue
        groups: list[tuple[int, ...]]
        if key in GLOBAL_GENES:
            gene, groups = key, [(0,)]
        elif key in STAGE_GENES:
            gene, free = key, [i for i in reversed(STAGES) if slot_name(key, i) not in given]
            groups = [tuple(i for i in free if i in entry.tie), *((i,) for i in free if i not in entry.tie)]
        elif key.startswith("stage"):
            gene, groups = key[7:], [(int(key[5]),)]
        else:
            continue
        for group in groups:
            if group:
                _bind(gene, group, entry, bindings, problems)
        _twice(gene, STAGES if key in STAGE_GENES else groups[0], entry, problems)
    # The same breach at several stages of one entry is one problem.
    problems[:] = {str(problem): problem for problem in problems}.values()
    return list(bindings.values())


def _bind(gene: str, stages: tuple[int, ...], entry: Entry, bindings: dict[str, Binding], problems: list[Problem]) -> None:
    shown = f"genes.{entry.key}"
    at: dict[int, list[Any]] = {stage: [_canonical(gene, stage, raw, entry, shown, problems) for raw in entry.values] for stage in stages}
    if any(value is None for values in at.values() for value in values) and gene != "attention":
        return
    conditions = {stage: _conditions(gene, stage, entry, shown, problems) for stage in stages}
    otherwise: dict[int, Any] = dict.fromkeys(stages, DEFAULT)
    if entry.otherwise is not None:
        otherwise = {i: _canonical(gene, i, entry.otherwise, entry, f"{shown}.else", problems) for i in stages}
    rows: list[tuple[Any, ...]] = []
    labels: list[Scalar] = []
    for k, raw in enumerate(entry.values):
        row = tuple(at[stage][k] for stage in stages)
        if any(value is not None for value in row) and row not in rows:
            rows.append(row)
            labels.append(_label(raw, row, stages))
    variable = None
    if len(rows) > 1:
        name = slot_name(gene, stages[0]) if len(stages) == 1 else gene if len(entry.tie) == 4 else f"stage{_digits(entry.tie)}.{gene}"
        when = ", ".join(condition.text for condition in conditions[stages[0]])
        values = {stage: tuple(row[n] for row in rows) for n, stage in enumerate(stages)}
        variable = Choices(name, gene, tuple(labels), values, when, GENES[gene].meaning)
    for n, stage in enumerate(stages):
        only = rows[0][n] if len(rows) == 1 else None
        if variable is None and only is None:
            rule = "a reused map must belong to a deeper stage"
            problems.append(Problem(entry.where, shown, f"{rule}; at stage {stage} none of these can be", list(entry.values), "own"))
            continue
        slot = slot_name(gene, stage)
        bindings[slot] = Binding(gene, stage, DEFAULT if variable else only, variable, conditions[stage], otherwise[stage])


def _twice(gene: str, stages: Sequence[int], entry: Entry, problems: list[Problem]) -> None:
    """Note a value that means the same as an earlier one at every stage of the entry."""
    seen: dict[tuple[Any, ...], Any] = {}
    for raw in entry.values:
        try:
            row = tuple(GENES[gene].check(raw, stage) for stage in stages)
        except ValueError:
            continue
        if row in seen:
            problems.append(Problem(entry.where, f"genes.{entry.key}", f"gives one value twice: {plain(seen[row])} and {plain(raw)}"))
        seen.setdefault(row, raw)


def _canonical(gene: str, stage: int, raw: Any, entry: Entry, shown: str, problems: list[Problem]) -> Any:
    """The value's canonical form at the stage; None, with a problem noted where it is one, for what cannot stand there."""
    try:
        value = GENES[gene].check(raw, stage)
    except ValueError as error:
        rule = str(error)
        if isinstance(raw, list) and gene != "inputs":
            rule += "; several values are written {choices: [...]}"
        problems.append(Problem(entry.where, shown, rule, raw, nearest(raw, GENES[gene].values)))
        return None
    if value is None:
        problems.append(Problem(entry.where, shown, "is the name of a backbone; leave the key out for none"))
    if gene == "attention" and str(value).startswith("stage") and int(value[5:]) <= stage:
        if entry.key not in STAGE_GENES:
            deeper = [f"stage{j}" for j in STAGES if j > stage]
            problems.append(Problem(entry.where, shown, "a reused map must belong to a deeper stage", raw, (deeper or ["own"])[0]))
        return None
    return value


def _conditions(gene: str, stage: int, entry: Entry, shown: str, problems: list[Problem]) -> tuple[Condition, ...]:
    """What ``when`` asks at this stage; a bare stage gene means the same stage."""
    out = []
    for name, raw in (entry.when or {}).items():
        key = f"{shown}.when.{name}"
        head, _, tail = str(name).partition(".")
        if name in STAGE_GENES and stage:
            slot, asked, at = slot_name(name, stage), str(name), stage
        elif name in STAGE_GENES:
            problems.append(Problem(entry.where, key, "say at which stage", None, f"stage4.{name}"))
            continue
        elif name in GLOBAL_GENES:
            slot, asked, at = str(name), str(name), 0
        elif head in ("stage1", "stage2", "stage3", "stage4") and tail in STAGE_GENES:
            slot, asked, at = str(name), tail, int(head[5])
        else:
            legal = (*GLOBAL_GENES, *STAGE_GENES, *(f"stage{i}.{g}" for i in STAGES for g in STAGE_GENES))
            problems.append(
                Problem(entry.where, key, "no such gene to depend on", None, nearest(name, legal), (*GLOBAL_GENES, *STAGE_GENES))
            )
            continue
        allowed = []
        for value in raw if isinstance(raw, list) else [raw]:
            try:
                allowed.append(GENES[asked].check(value, at))
            except ValueError as error:
                problems.append(Problem(entry.where, key, str(error), value, nearest(value, GENES[asked].values)))
        out.append(Condition(slot, tuple(allowed), _condition_text(str(name), raw)))
    return tuple(out)


def bind_settings(given: Mapping[str, Entry], problems: list[Problem]) -> tuple[dict[str, Any], tuple[Setting, ...]]:
    """Fixed training genes by field, and the open ones in file order. One with a condition is open even if it has one value."""
    fixed: dict[str, Any] = {}
    opened: dict[str, Setting] = {}
    for key, entry in given.items():
        if not key.startswith("train.") or not (entry.values or entry.range):
            continue
        found = len(problems)
        shown = f"genes.{key}"
        conditions = _setting_conditions(entry, shown, fixed, opened, problems)
        for value in (*entry.values, *(() if entry.otherwise is None else (entry.otherwise,))):
            if not isinstance(value, (str, int, float)) or (isinstance(value, float) and not math.isfinite(value)):
                problems.append(Problem(entry.where, shown, "must be a number, a text, true or false", value))
        if len({(isinstance(v, bool), str(v)) for v in entry.values}) < len(entry.values):
            problems.append(Problem(entry.where, shown, "gives one value twice", list(entry.values)))
        if entry.range is not None:
            _check_range(entry, shown, problems)
        if len(problems) > found:
            continue
        if entry.range is None and len(entry.values) == 1 and not conditions:
            fixed[key.removeprefix("train.")] = entry.values[0]
            continue
        low, high = entry.range or (0, 0)
        whole = entry.range is not None and type(low) is int and type(high) is int
        opened[key] = Setting(key, entry.values, low, high, entry.step, entry.log, whole, conditions, entry.otherwise)
    return fixed, tuple(opened.values())


def _check_range(entry: Entry, shown: str, problems: list[Problem]) -> None:
    assert entry.range is not None
    low, high = entry.range
    if any(isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v) for v in (low, high)) or not low < high:
        problems.append(Problem(entry.where, shown, "a range wants numbers with low below high", [low, high]))
        return
    whole = type(low) is int and type(high) is int
    if not isinstance(entry.log, bool):
        problems.append(Problem(entry.where, f"{shown}.log", "must be true or false", entry.log))
    elif entry.log and low <= 0:
        problems.append(Problem(entry.where, f"{shown}.low", "a logarithmic range must start above 0", low))
    if type(entry.step) is not int or entry.step < 1:
        problems.append(Problem(entry.where, f"{shown}.step", "must be a whole number from 1", entry.step, 1))
    elif entry.step > 1 and (not whole or entry.log):
        problems.append(Problem(entry.where, f"{shown}.step", "is for ranges of whole numbers that are not logarithmic", entry.step))
    elif entry.step > 1 and (high - low) % entry.step:
        legal = high - (high - low) % entry.step
        problems.append(Problem(entry.where, f"{shown}.high", f"must lie a multiple of {entry.step} above low", high, legal))


def _setting_conditions(
    entry: Entry, shown: str, fixed: Mapping[str, Any], opened: Mapping[str, Setting], problems: list[Problem]
) -> tuple[Condition, ...]:
    """Conditions of a training gene: on genes, or on training genes further up that have choices."""
    genes = {k: v for k, v in (entry.when or {}).items() if not str(k).startswith("train.")}
    out = list(_conditions("", 0, Entry(entry.key, entry.where, when=genes), shown, problems))
    for name, raw in (entry.when or {}).items():
        if name in genes:
            continue
        key = f"{shown}.when.{name}"
        values = raw if isinstance(raw, list) else [raw]
        other = opened.get(name)
        if other is None and name.removeprefix("train.") not in fixed:
            problems.append(
                Problem(
                    entry.where, key, "depends on a training gene that does not stand above it", None, nearest(name, opened), tuple(opened)
                )
            )
        elif other is not None and not other.choices:
            problems.append(Problem(entry.where, key, "depends on a range; a condition wants a gene with choices"))
        elif other is not None and (strange := [v for v in values if not other.contains(v)]):
            problems.append(Problem(entry.where, key, f"must be out of {other.text()}", strange[0], nearest(strange[0], other.choices)))
        else:
            out.append(Condition(str(name), tuple(values), _condition_text(str(name), raw)))
    return tuple(out)


def _label(raw: Any, row: tuple[Any, ...], stages: tuple[int, ...]) -> Scalar:
    """What a chooser sees: the canonical value, sets of inputs as ``all``, ``self`` or ``2+3``; for tied stages a word stays a word."""
    value = row[0]
    if len(stages) > 1:
        if isinstance(raw, (list, tuple)):
            return "+".join(map(str, sorted(raw)))
        return str(raw) if isinstance(row[0], tuple) else raw
    if isinstance(value, tuple):
        return "all" if value == STAGES else "self" if value == stages else "+".join(map(str, value))
    return value  # type: ignore[no-any-return]


def _condition_text(name: str, raw: Any) -> str:
    values = raw if isinstance(raw, list) else [raw]
    return f"{name} {' or '.join(plain(v) for v in values)}"


def _digits(stages: Sequence[int]) -> str:
    return "".join(map(str, sorted(stages)))
