"""Whether a search of training settings found anything better than its recipe's defaults."""

from __future__ import annotations

from nasseg.metric import label_of
from nasseg.search.starts import is_default
from nasseg.search.view import COMPLETE, FAILED, StudyView, TrialView


def against_defaults(view: StudyView) -> str | None:
    """One sentence: the best trial against the recipe's defaults, by the first objective.

    Returns:
        ``nothing beat the recipe's defaults: …`` or what beat them; None where there is no such trial, or nothing yet to compare it with.
    """
    if not view.objectives:
        return None
    name, way = next(iter(view.objectives.items()))
    sign = -1 if way == "max" else 1

    def best(trials: list[TrialView]) -> TrialView | None:
        return min((t for t in trials if t.values), key=lambda t: (sign * (t.values or (0.0,))[0], t.number), default=None)

    own = [trial for trial in view.trials if is_default(trial.origin) and trial.trained]
    default = best(own)
    other = best([trial for trial in view.trials if trial.state == COMPLETE and not is_default(trial.origin)])
    if default is None:
        failed = [trial for trial in own if trial.state == FAILED]
        return f"the recipe's defaults failed ({listed(failed)}): nothing says whether the search found better ones" if failed else None
    if other is None:
        return None
    label = label_of(name)

    def shown(trial: TrialView) -> str:
        return f"trial {trial.number}, {label} {(trial.values or (0.0,))[0]:.4g}"

    if sign * (other.values or (0.0,))[0] < sign * (default.values or (0.0,))[0]:
        return f"better than the recipe's defaults ({shown(default)}): {shown(other)}"
    return f"nothing beat the recipe's defaults: {shown(default)}; next best {shown(other)}"


def listed(trials: list[TrialView]) -> str:
    """``trial 0: loss is nan``."""
    return "; ".join(f"trial {trial.number}: {(trial.reason or '').splitlines()[0] if trial.reason else 'no reason'}" for trial in trials)
