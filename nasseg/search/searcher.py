"""The two pieces Ray Tune is given: a searcher that asks the study, and a trainable that runs one trial.

The study decides everything; Tune schedules. A candidate over budget never gets this far, so it never becomes a trial of Ray's. Only
:mod:`nasseg.search.cluster` imports this module, after it has set Ray's environment.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Callback, Trainable
from ray.tune.search import Searcher

import nasseg
from nasseg.log import forwarded, relay
from nasseg.search.candidate import Proposal, finite, unfinite
from nasseg.search.study import Study
from nasseg.search.worker import LOST, Losses, LostProcess, Run, Stopped, execute, timed_out
from nasseg.training.trial import Result, Trial

if TYPE_CHECKING:
    from nasseg.search.ranks import RankGroup

STEP_SECONDS = 1.0
"""How long a worker gathers progress before it answers Tune: each answer costs the driver some milliseconds."""

GIVEN_UP = "given_up"
"""Key of a trial's configuration: why it is not run any more. Its next worker answers with a failed result at once."""


PROGRESS = "nasseg_progress"
LOGS = "nasseg_logs"
RESULT = "nasseg_result"
LOST_RANK = "nasseg_lost_rank"
"""Keys of what a worker sends, each as JSON text: Tune flattens mappings."""


class StudySearcher(Searcher):  # type: ignore[misc]  # Ray is not typed
    """Asks the study for proposals and tells it results. Holds no state of its own that a restart would need."""

    def __init__(
        self, study: Study, progress: Callable[[int, int, Mapping[str, float]], None], workers: int = 1, timeout: float | None = None
    ) -> None:
        super().__init__()
        self.timeout = timeout
        self.study = study
        self.workers = workers
        self.progress = progress
        self.proposals: dict[str, Proposal] = {}
        self.suggested: list[int] = []

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial as Tune's configuration, or ``FINISHED``."""
        proposal = self.study.propose()
        if proposal is None:
            return str(Searcher.FINISHED)
        self.proposals[trial_id] = proposal
        self.suggested.append(proposal.number)
        return {"trial": proposal.trial.to_dict(), "version": nasseg.__version__, "workers": self.workers, "timeout": self.timeout}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Progress of a running trial, and what it logged."""
        proposal = self.proposals.get(trial_id)
        self._relay(proposal, result)
        progress = result.get(PROGRESS)
        if proposal is not None and progress:
            iteration, metrics = json.loads(progress)
            self.progress(proposal.number, iteration, metrics)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial ended: with a result of its own, failed or not, or because its worker was lost for good."""
        proposal = self.proposals.pop(trial_id, None)
        if proposal is None:
            return
        self._relay(proposal, result or {})
        content = (result or {}).get(RESULT)
        given_up = (result or {}).get(GIVEN_UP)
        if error or content is None:
            self.study.fail(proposal.number, given_up or "its worker was lost", lost=True)
        else:
            self.study.tell(proposal.number, Result.from_dict(unfinite(json.loads(content))))

    @staticmethod
    def _relay(proposal: Proposal | None, result: Mapping[str, Any]) -> None:
        if proposal is not None:
            for record in json.loads(result.get(LOGS) or "[]"):
                relay(f"trial {proposal.number}", *record)

    def number(self, trial_id: str) -> int | None:
        """The study's number of one of Tune's trials that runs."""
        proposal = self.proposals.get(trial_id)
        return None if proposal is None else proposal.number

    def save(self, checkpoint_path: str) -> None:
        """Tune wants a file; the study's state is in its journal."""
        Path(checkpoint_path).write_text("{}", encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Never used: every start is a fresh Tuner over the study."""
        raise NotImplementedError("a search goes on from its study, not from a snapshot of Tune's")

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles the searcher into its own records, which nobody reads.
        return {}


class LostWorkers(Callback):  # type: ignore[misc]  # Ray is not typed
    """Says when a worker went away and its trial is tried again; gives a trial up that makes no progress between two losses."""

    def __init__(self, searcher: StudySearcher, lost: Callable[[int, str], None]) -> None:
        self.searcher = searcher
        self.lost = lost
        self.losses = Losses()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune is about to start the trial again."""
        proposal = self.searcher.proposals.get(trial.trial_id)
        if proposal is None:
            return
        why = "killed, out of memory, or its node went away"
        if self.losses.count(proposal) >= LOST:
            trial.config = {**trial.config, GIVEN_UP: f"its worker was lost {LOST} times without progress ({why})"}
        else:
            self.lost(proposal.number, why)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialRunner(Trainable):  # type: ignore[misc]  # Ray is not typed
    """Runs one trial in a thread; each step gathers a second of progress, the last one carries the result. The actor is used again."""

    def setup(self, config: dict[str, Any]) -> None:
        """Called once an actor; the run begins with the first step."""
        self.ranks: RankGroup | None = None
        logging.captureWarnings(True)
        self.begin(config)

    def begin(self, config: dict[str, Any]) -> None:
        """Make ready for a trial."""
        self.messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self.leaving = threading.Event()
        self.thread: threading.Thread | None = None
        self.content = config

    def step(self) -> dict[str, Any]:
        """Progress, or the end (``done``)."""
        if GIVEN_UP in self.content:
            return {GIVEN_UP: self.content[GIVEN_UP], "done": True}
        if self.thread is None:
            self.started = time.monotonic()
            if self.ranks is None and self.content.get("workers", 1) > 1:
                # torch.distributed takes seconds to import; most trials run in one process.
                from nasseg.search.ranks import RankGroup  # noqa: PLC0415

                self.ranks = RankGroup(self.content["workers"])
            run = None if self.ranks is None else self.ranks.train
            self.thread = threading.Thread(target=work, args=(self.content, self.messages, self.leaving, run), daemon=True)
            self.thread.start()
        told: dict[str, Any] = {PROGRESS: ""}
        logs: list[Any] = []
        deadline = time.monotonic() + STEP_SECONDS
        with contextlib.suppress(queue.Empty):
            # Of several messages only the newest is worth an answer; the result is at once.
            while RESULT not in told:
                message = self.messages.get(timeout=max(0.0, deadline - time.monotonic()))
                if LOST_RANK in message:
                    # Tune counts it as a lost worker and starts the trial again.
                    raise RuntimeError(message[LOST_RANK])
                if LOGS in message:
                    logs.append(message[LOGS])
                else:
                    told = message
        limit = self.content.get("timeout")
        if RESULT not in told and limit is not None and time.monotonic() - self.started > limit:
            # The thread may hang for ever: reset_config finds it alive, and Tune takes a new actor.
            self.leaving.set()
            told = {RESULT: json.dumps(timed_out(limit, time.monotonic() - self.started).to_dict()), "done": True}
        return {**told, LOGS: json.dumps(logs)} if logs else told

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial, if the last one's thread has ended."""
        if self.thread is not None:
            self.thread.join(timeout=10)
            if self.thread.is_alive():
                return False
        self.begin(new_config)
        return True

    def cleanup(self) -> None:
        """The search is being stopped: a run that still goes leaves at its next report."""
        self.leaving.set()
        if self.ranks is not None:
            self.ranks.stop()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Checkpoints are the trainer's, in the trial's own folder."""


def work(config: dict[str, Any], messages: queue.Queue[dict[str, Any]], leaving: threading.Event, run: Run | None = None) -> None:
    """A trial from beginning to end, in a thread of the actor; ``run`` trains it in several processes."""

    def report(iteration: int, metrics: Mapping[str, float]) -> bool:
        if leaving.is_set():
            raise Stopped
        if metrics:
            messages.put({PROGRESS: json.dumps([iteration, {name: float(value) for name, value in metrics.items()}])})
        return False

    if config["version"] != nasseg.__version__:
        reason = f"this node has nasseg {nasseg.__version__}, the search runs {config['version']}"
        result = Result(status=Result.FAILED, reason=reason)
    else:
        try:
            with forwarded(lambda *record: messages.put({LOGS: record})):
                result = execute(Trial.from_dict(config["trial"]), report, run).result
        except Stopped:
            return
        except LostProcess as error:
            messages.put({LOST_RANK: str(error)})
            return
        except BaseException as error:
            # Not the trainer's failure (that is a result): the folder cannot be written, say.
            result = Result(status=Result.FAILED, reason=f"{type(error).__name__}: {error}")
    messages.put({RESULT: json.dumps(finite(result.to_dict())), "done": True})
