"""The study: what is proposed next, what is trained, what is answered without training, what is told. No Ray, no torch.

Optuna's journal is the only truth. A trial of this study is an ``optuna`` trial with a ``candidate`` attribute; its states mean:

====================  ==========================================================================================
Optuna's state        here
====================  ==========================================================================================
WAITING               queued: a preset, or a fresh point after a duplicate
RUNNING               handed out; after a restart it is handed out again under its own number (an attempt more)
COMPLETE              trained; or a duplicate (``duplicate_of``), told the values of the trial that answered it
FAIL                  trained and failed, with its ``reason``; or interrupted before it became a candidate
PRUNED                over budget, with its ``reason``: never handed out, never trained
====================  ==========================================================================================

Rejects are told as PRUNED with their constraints, because a sampler that never hears of them proposes them for ever.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasseg.errors import StudyError, TrainingFailed
from nasseg.genes.space import Point
from nasseg.search import view
from nasseg.search.candidate import Candidate, Chooser, Proposal, Recipe, finite
from nasseg.search.failures import FailureStreak, to_retry
from nasseg.search.journal import open_storage
from nasseg.search.journal_repair import repair_journal
from nasseg.search.patience import MOST_STUCK, Patience
from nasseg.search.proposer import Proposer
from nasseg.search.returned import objective_values, plain_result, recorded_result
from nasseg.search.samplers import make_sampler
from nasseg.search.store import PARQUET, read_rows
from nasseg.search.view import Event, Listener, StudyView, TrialView, answered, load_optuna, pareto_front, view_trial, view_trials
from nasseg.training.trial import Result

STARTS = 10
"""A trial that was started so often and never reached a checkpoint takes its driver down with it: it is told as failed."""


class Study:
    """Proposes trials and takes their results. One driver at a time (:class:`nasseg.search.driver.DriverLock`).

    ``trials`` counts trained ones, complete or failed; rejects and duplicates cost nothing and are not counted. Opening a study that was
    interrupted requeues its running trials. Raises :class:`nasseg.errors.BudgetError` before anything is written if no genotype fits.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        proposer: Proposer,
        recipe: Recipe,
        trials: int,
        objectives: Mapping[str, str] | None = None,
        sampler: str = "tpe",
        seed: int = 0,
        listener: Listener | None = None,
        retry_failed: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.proposer = proposer
        self.space = proposer.space
        self.budget = proposer.budget
        self.recipe = recipe
        self.trials = trials
        self.objectives = dict(objectives or self.space.objectives)
        self.listener = listener
        self.finished: str | None = None
        self.condemned: str | None = None
        self._streak_of_failures = FailureStreak()
        self.running: dict[int, Candidate] = {}
        self.completed = self.failed = self.rejected = self.duplicates = 0
        self._front: list[tuple[int, tuple[float, ...], Candidate]] = []
        self._known: dict[str, int] = {}
        self._told: dict[int, tuple[tuple[float, ...] | None, str | None]] = {}
        self._twins: dict[int, list[int]] = {}
        self._requeue: deque[int] = deque()
        self._patience = Patience(sampler)

        self.proposer.check_budget()
        self.sampling = make_sampler(sampler, seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        repaired = repair_journal(self.folder / "journal.log", lambda: read_rows(self.folder / PARQUET) or {}, self.objectives)
        if repaired is not None:
            self._note(str(repaired))
        self.storage, self.journal = open_storage(self.folder / "journal.log")
        directions = [StudyDirection.MAXIMIZE if d == "max" else StudyDirection.MINIMIZE for d in self.objectives.values()]
        existing = load_optuna(self.storage)
        if existing is None:
            self.optuna = optuna.create_study(
                storage=self.storage, study_name=view.STUDY_NAME, directions=directions, sampler=self.sampling
            )
        else:
            self.optuna = existing
            if list(existing.directions) != directions:
                found = ", ".join(d.name.lower() for d in existing.directions)
                raise StudyError(f"{self.folder} was searched with other objectives ({found}) than {', '.join(self.objectives)}")
            # A sampler that starts again with its old seed would draw again what it has drawn.
            self.optuna.sampler = self.sampling = make_sampler(sampler, seed + len(self._frozen()))
        self._study_id = self.storage.get_study_id_from_name(view.STUDY_NAME)
        self._rng = random.Random(f"{seed}/{len(self._frozen())}")
        self._retried: set[int] = set(self.optuna.user_attrs.get(view.RETRIED, ()))
        self._load()
        self._enqueue_starts()
        self._retry(retry_failed)

    # What a search asks.

    @property
    def trained(self) -> int:
        """Trials that were trained, to their end or to their failure."""
        return self.completed + self.failed

    @property
    def front(self) -> tuple[int, ...]:
        """Numbers of the trials no other dominates."""
        return tuple(number for number, _, _ in self._front)

    def view(self) -> StudyView:
        """The study as a reader sees it."""
        trials = view_trials(self._frozen(), list(self.objectives.values()), retried=self._retried)
        return StudyView(path=self.folder, trials=trials, objectives=self.objectives)

    def view_of(self, number: int) -> TrialView:
        """One trial as a reader sees it."""
        seen = view_trial(self.storage.get_trial(self._id(number)))
        if seen is None:
            raise KeyError(number)
        if seen.duplicate_of is not None:
            seen = answered(seen, view_trial(self.storage.get_trial(self._id(seen.duplicate_of))))
        return replace(seen, on_front=number in self.front)

    def propose(self) -> Proposal | None:
        """The next trial to run: an interrupted one first, then queued presets, then what the sampler draws.

        None when nothing is left to hand out: as many trials are trained or running as were asked for, or the space is used up
        (``finished`` says which).
        """
        while True:
            if self._requeue:
                number = self._requeue.popleft()
                proposal = self._judge(number, self.running[number])
            elif self.trained + len(self.running) >= self.trials:
                self.finished = self.finished or f"{self.trials} trials were asked for"
                return None
            elif self.finished is not None or not self._stay_fresh():
                return None
            else:
                proposal = self._ask()
            if proposal is not None:
                return proposal

    def tell(self, number: int, result: Result) -> None:
        """A trial's result; a second one is ignored.

        A failed run, and an objective that is missing or no finite number, are told to Optuna as FAIL with the reason. A cost is counted,
        never reported: a metric of the same name does not replace it.
        """
        candidate = self.running.get(number)
        if candidate is None:
            return
        try:
            result = plain_result(result)
        except TrainingFailed as error:
            result = Result(status=Result.FAILED, reason=str(error))
        self._attribute(number, view.RESULT, finite(result.to_dict()))
        if result.status != Result.COMPLETE:
            self.fail(number, result.reason or "the trainer gave no reason")
            return
        try:
            values = objective_values(self.objectives, candidate.cost, result)
        except TrainingFailed as error:
            self.fail(number, str(error))
            return
        self.optuna.tell(number, values, TrialState.COMPLETE)
        self.running.pop(number)
        self.completed += 1
        self._streak_of_failures.clear()
        self._told[number] = (tuple(values), None)
        self._join_front(number, tuple(values), candidate)
        self._emit(view.COMPLETE, number)
        self._answer_twins(number)

    def fail(self, number: int, reason: str, *, lost: bool = False) -> None:
        """A trial that failed. ``lost``: for no fault of its own (its worker went away); the next start trains it again, not this one."""
        candidate = self.running.pop(number, None)
        if candidate is None:
            return
        self._attribute(number, view.REASON, reason)
        if lost:
            self._attribute(number, view.LOST, True)
        self.optuna.tell(number, state=TrialState.FAIL)
        self.failed += 1
        self._told[number] = (None, reason)
        self.condemned = self.condemned or self._streak_of_failures.note(reason)
        self.finished = self.finished or self.condemned
        self._emit(view.FAILED, number)
        self._answer_twins(number)

    def close(self) -> None:
        """Flush and close the journal; running trials stay running in it and are requeued by the next driver."""
        self.journal.close()

    # How a candidate comes about.

    def _ask(self) -> Proposal | None:
        trial = self.optuna.ask()
        planned = trial.user_attrs.get(view.PLANNED)
        try:
            point = self.space.suggest(Chooser(trial, self.sampling))
        except BaseException:
            self._interrupted(trial.number)
            raise
        cost = self.proposer.values(point.genotype)
        for name, excess in self.budget.excess(cost).items():
            trial.set_constraint(name, excess)
        candidate = self._candidate(point, planned["origin"] if planned else "sampler")
        self._attribute(trial.number, view.CANDIDATE, candidate.to_dict())
        self.running[trial.number] = candidate
        return self._judge(trial.number, candidate)

    def _judge(self, number: int, candidate: Candidate) -> Proposal | None:
        """Hand a candidate out, or tell it at once: over budget, or trained already."""
        violated = self.budget.violated(candidate.cost)
        if violated is not None:
            self._reject(number, candidate, violated)
            return None
        original = self._known.setdefault(candidate.key, number)
        if original != number:
            self._duplicate(number, candidate, original)
            return None
        self._patience.hand_out(drawn=candidate.origin == "sampler")
        return self._hand_out(number, candidate)

    def _hand_out(self, number: int, candidate: Candidate) -> Proposal | None:
        frozen = self.storage.get_trial(self._id(number))
        if view.RESULT in frozen.user_attrs:
            # Killed between the result and its telling.
            self.tell(number, recorded_result(frozen.user_attrs[view.RESULT]))
            return None
        attempt = int(frozen.user_attrs.get(view.ATTEMPT, 0)) + 1
        workdir = (self.folder / "work" / str(number)).absolute()
        if attempt > STARTS and not any(workdir.glob("attempt-*/checkpoints/*")):
            self.fail(number, f"started {STARTS} times and never reached a checkpoint", lost=True)
            return None
        self._attribute(number, view.ATTEMPT, attempt)
        self.journal.flush()
        self._emit("resumed" if attempt > 1 else view.RUNNING, number)
        return Proposal(number, self.recipe.trial(candidate.point().genotype, candidate.settings, str(workdir)), attempt)

    def _reject(self, number: int, candidate: Candidate, violated: str) -> None:
        self.running.pop(number, None)
        self._patience.reject(candidate.key)
        self._attribute(number, view.REASON, f"over budget: {violated}")
        self.optuna.tell(number, state=TrialState.PRUNED)
        self.rejected += 1
        self._emit(view.REJECTED, number)

    def _duplicate(self, number: int, candidate: Candidate, original: int) -> None:
        """Answer from the trial that was trained; where that one still runs, wait for it (Optuna sees a running trial meanwhile)."""
        self.running.pop(number, None)
        self._attribute(number, view.DUPLICATE_OF, original)
        self.duplicates += 1
        self._patience.want_fresh = True
        if original in self._told:
            self._answer(number, original)
        else:
            self._twins.setdefault(original, []).append(number)

    def _answer(self, number: int, original: int) -> None:
        values, reason = self._told[original]
        if values is None:
            self._attribute(number, view.REASON, f"as trial {original}: {reason}")
            self.optuna.tell(number, state=TrialState.FAIL)
        else:
            self.optuna.tell(number, list(values), TrialState.COMPLETE)
        self._emit(view.DUPLICATE, number)

    def _answer_twins(self, original: int) -> None:
        for number in self._twins.pop(original, []):
            self._answer(number, original)

    def _stay_fresh(self) -> bool:
        """After a duplicate, or too many rejects in a row, queue a point that is new and fits. False where the space holds none."""
        patience = self._patience
        if not patience.over:
            return True
        if patience.want_fresh and self._queued():
            patience.want_fresh = False
            return True
        patience.queue()
        front = [candidate.point() for _, _, candidate in self._front]
        found = self.proposer.fresh(front, self._unseen, self._rng, self._tried)
        if found is None or patience.stuck > MOST_STUCK or not self._enqueue(*found):
            self.finished = self.proposer.used_up() if found is None else f"{patience.stuck} queued points in a row were not new"
            self._note(f"the search ends early: {self.finished}")
            return False
        return True

    def _tried(self) -> list[Point]:
        """The points of all trials that fit the budget, running ones included."""
        trials = self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING))
        return [Candidate.from_dict(raw).point() for trial in trials if (raw := trial.user_attrs.get(view.CANDIDATE)) is not None]

    def _unseen(self, point: Point) -> bool:
        return self.recipe.key(point.genotype, point.settings) not in self._known

    def _queued(self) -> bool:
        return bool(self.optuna.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def _enqueue(self, point: Point, origin: str) -> bool:
        """Queue a point as the next trial; False for one that lies outside the space."""
        parameters = self.space.encode(point)
        if parameters is not None:
            self.optuna.enqueue_trial(dict(parameters), user_attrs={view.PLANNED: self._candidate(point, origin).to_dict()})
        return parameters is not None

    def _enqueue_starts(self) -> None:
        """Queue what the study starts from, once; say why the rest is left out. A study of an older version gets what it lacks."""
        if "starts" in self.optuna.user_attrs or ("presets" in self.optuna.user_attrs and not self.proposer.has_settings):
            return
        there = {view_.origin for frozen in self._frozen() if (view_ := view_trial(frozen)) is not None}
        starts = self.proposer.starts()
        for sentence in (*self.proposer.moved_defaults(), *(str(start) for start in starts if start.point is None)):
            self._note(sentence)
        for start in starts:
            if start.point is not None and start.origin not in there:
                self._enqueue(start.point, start.origin)
        self.optuna.set_user_attr("starts", {start.origin: start.reason or "queued" for start in starts})

    def _candidate(self, point: Point, origin: str) -> Candidate:
        genotype = point.genotype
        return Candidate(
            genotype=genotype.to_dict(),
            settings=dict(point.settings),
            cost=dict(self.proposer.values(genotype)),
            key=self.recipe.key(genotype, point.settings),
            origin=origin,
            id=genotype.id,
            short=genotype.short(),
        )

    # What the journal says at the start.

    def _load(self) -> None:
        """Take up every trial of the journal: count what is told, requeue what runs, clear what was killed while being drawn."""
        running: list[tuple[FrozenTrial, Candidate]] = []
        for frozen in self._frozen():
            raw = frozen.user_attrs.get(view.CANDIDATE)
            if raw is None:
                if frozen.state == TrialState.RUNNING:
                    self._interrupted(frozen.number)
                continue
            candidate = Candidate.from_dict(raw)
            if frozen.state == TrialState.RUNNING:
                running.append((frozen, candidate))
            elif frozen.state == TrialState.PRUNED:
                self.rejected += 1
                self._patience.remember(candidate.key)
            elif view.DUPLICATE_OF in frozen.user_attrs:
                self.duplicates += 1
            elif frozen.state == TrialState.COMPLETE:
                values = tuple(frozen.values or ())
                self.completed += 1
                self._told[frozen.number] = (values, None)
                self._known[candidate.key] = frozen.number
                self._join_front(frozen.number, values, candidate)
            elif frozen.number not in self._retried:
                self.failed += 1
                self._told[frozen.number] = (None, frozen.user_attrs.get(view.REASON))
                if not frozen.user_attrs.get(view.LOST):
                    self._known[candidate.key] = frozen.number
        for frozen, candidate in running:
            original = frozen.user_attrs.get(view.DUPLICATE_OF)
            if original is None:
                self._known.setdefault(candidate.key, frozen.number)
                self.running[frozen.number] = candidate
                self._requeue.append(frozen.number)
            else:
                self.duplicates += 1
                if original in self._told:
                    self._answer(frozen.number, original)
                else:
                    self._twins.setdefault(original, []).append(frozen.number)

    def _retry(self, failed: bool) -> None:
        """Queue again what was lost for no fault of its own and, with ``failed``, whatever failed; the new trials take their place."""
        for frozen in to_retry(self._frozen(), self._retried, failed=failed):
            candidate = Candidate.from_dict(frozen.user_attrs[view.CANDIDATE])
            if self._known.get(candidate.key) == frozen.number:
                del self._known[candidate.key]
            self._enqueue(candidate.point(), candidate.origin)
            self._retried.add(frozen.number)
            self._told.pop(frozen.number, None)
            self.failed -= 1
            self._note(f"trial {frozen.number} is tried again; it had failed: {frozen.user_attrs.get(view.REASON)}")
        self.optuna.set_user_attr(view.RETRIED, sorted(self._retried))

    def _interrupted(self, number: int) -> None:
        self._attribute(number, view.REASON, "interrupted while being proposed; never trained")
        self.optuna.tell(number, state=TrialState.FAIL)

    def _frozen(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _attribute(self, number: int, name: str, value: Any) -> None:
        self.storage.set_trial_user_attr(self._id(number), name, value)

    def _join_front(self, number: int, values: tuple[float, ...], candidate: Candidate) -> None:
        members = [*self._front, (number, values, candidate)]
        kept = pareto_front([v for _, v, _ in members], list(self.objectives.values()))
        self._front = [members[i] for i in kept]

    def _note(self, text: str) -> None:
        if self.listener is not None:
            self.listener(Event(kind="note", text=text))

    def _emit(self, kind: str, number: int) -> None:
        if self.listener is not None:
            self.listener(Event(kind=kind, trial=self.view_of(number)))
