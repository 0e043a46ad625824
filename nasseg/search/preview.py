"""What a search would do, found out without writing anything: ``nasseg search --dry-run``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nasseg.errors import StudyError
from nasseg.genes.stats import SpaceStats
from nasseg.search.driver import DriverLock
from nasseg.search.plan import Plan
from nasseg.search.resources import Resources
from nasseg.search.run import check_plan
from nasseg.search.starts import Start
from nasseg.search.store import read_study
from nasseg.search.view import COMPLETE, FAILED


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a search would do.

    Attributes:
        plan: the search.
        stats: its space under its budget.
        starts: what a new study tries first and what it leaves out; empty for one that goes on.
        moved: sentences on defaults of the recipe that the space does not hold.
        trained: trials that an earlier start has trained; None for a new study.
        fitting: how many networks, with their settings, fit the budget; None where the space is too large to list.
    """

    plan: Plan
    stats: SpaceStats
    starts: tuple[Start, ...]
    moved: tuple[str, ...]
    trained: int | None
    fitting: int | None

    @property
    def trials(self) -> int:
        """How many trials the study will have trained at its end."""
        return self.plan.trials if self.fitting is None else min(self.plan.trials, self.fitting)

    def lines(self) -> Iterator[str]:
        """The preview in words; what a search says as well, it says in the same words."""
        stats = self.stats
        share = "" if stats.share is None or not self.plan.budget else f", {stats.share:.1%} inside the budget"
        about = ("" if stats.exact else " (sampled)") + (f"; {stats.binding} binds most" if stats.binding else "")
        yield f"{stats.size:,} genotype{'' if stats.size == 1 else 's'}{share}{about}"
        yield "objectives: " + ", ".join(f"{name} {way}" for name, way in self.plan.objectives.items())
        settings = [setting.name for setting in self.plan.space.training.opened]
        if settings:
            yield f"searched settings: {', '.join(settings)}"
        yield from self.moved
        yield from (str(start) for start in self.starts)
        if self.trials < self.plan.trials:
            yield f"no more than {self.fitting} fit the budget: the search ends after them, {self.plan.trials} were asked for"
        left = max(0, self.trials - (self.trained or 0))
        state = "begins" if self.trained is None else f"goes on after {self.trained} trained trials"
        yield f"the study in {self.plan.out} {state}; {left} trials would be trained"


def preview(plan: Plan, resources: Resources) -> Preview:
    """Look at everything a search looks at before its first trial.

    Raises:
        NassegError: what the search would raise before its first trial, in the same words.
    """
    earlier = check_plan(plan, resources)
    check_folder(plan.out)
    proposer = plan.proposer
    return Preview(
        plan=plan,
        stats=plan.space.stats(proposer.values, plan.budget),
        starts=tuple(proposer.starts()) if earlier is None else (),
        moved=tuple(proposer.moved_defaults()) if earlier is None else (),
        trained=None if earlier is None else read_study(plan.out).count(COMPLETE, FAILED),
        fitting=proposer.count(),
    )


def check_folder(out: Path) -> None:
    """Refuse a folder that a search could not write or that another search holds. Raises :class:`StudyError`."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise StudyError(f"{out} cannot be written: {'Permission denied' if there.is_dir() else 'Not a directory'}")
    holder = DriverLock(out).holder() if out.is_dir() else None
    if holder is not None:
        raise StudyError(f"{out} is in use by another search ({holder}); wait for it or stop it")
