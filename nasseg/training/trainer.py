"""Finding a recipe by name, and what all recipes share."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar

from nasseg.errors import ConfigError, Problem, nearest
from nasseg.metric import METRICS, Metric
from nasseg.training.config import TrainingConfig
from nasseg.training.trial import Report, Result, Trial

HOME = "nasseg.trainers"


class Recipe:
    """A trainer with typed settings: subclasses name their ``Config``, declare ``metrics`` of their own, and write :meth:`run`.

    ``distributed`` declares that :meth:`run`, called in every process of :func:`nasseg.training.distributed.world`, trains one network
    together, as everything that is composed of :class:`nasseg.training.job.Job` does.
    """

    Config: ClassVar[type[TrainingConfig]] = TrainingConfig
    metrics: ClassVar[tuple[Metric, ...]] = METRICS
    distributed: ClassVar[bool] = False

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        """Raises :class:`ConfigError` with every unknown or illegal setting at once."""
        self.config = self.Config.parse(settings or {}, where=f"trainer {type(self).__name__.lower()}")

    def run(self, trial: Trial, report: Report) -> Result:
        """Train and measure; see :class:`nasseg.training.trial.Trainer`."""
        raise NotImplementedError(f"{type(self).__name__} has no run(trial, report)")


def trainer_names() -> list[str]:
    """The recipes in :mod:`nasseg.trainers`, by module name."""
    home = importlib.import_module(HOME)
    return sorted(module.name for module in pkgutil.iter_modules(home.__path__) if not module.ispkg)


def metrics_of(trainer: Any) -> tuple[Metric, ...]:
    """What a trainer class declares in ``metrics``; a class without the attribute reports what :class:`Recipe` does.

    Raises:
        ConfigError: ``metrics`` holds something else than :class:`nasseg.metric.Metric`, or two of one name.
    """
    declared = tuple(getattr(trainer, "metrics", METRICS))
    names = [metric.name if isinstance(metric, Metric) else metric for metric in declared]
    strange = [name for name, metric in zip(names, declared, strict=True) if not isinstance(metric, Metric)]
    if strange:
        rule = "holds nasseg.metric.Metric, such as (*Recipe.metrics, Metric('f1'))"
        raise ConfigError(Problem(f"trainer {trainer.__name__}", "metrics", rule, strange[0], f"Metric({str(strange[0])!r})"))
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ConfigError(Problem(f"trainer {trainer.__name__}", "metrics", "declares a metric twice", twice[0]))
    return declared


def load_trainer(name: str) -> Any:
    """The trainer class behind a name: ``proxy`` is class ``Proxy`` of ``nasseg.trainers.proxy``, ``my.module:Class`` any importable class.

    Raises :class:`ConfigError` for a name that leads nowhere and for a class without ``Config`` and ``run``.
    """
    module_name, colon, class_name = name.partition(":")
    if not colon:
        names = trainer_names()
        if name not in names:
            raise ConfigError(
                Problem("", "trainer", f"no such recipe; there are {', '.join(names)}, or my.module:Class", name, nearest(name, names))
            )
        module_name, class_name = f"{HOME}.{name}", "".join(part.capitalize() for part in name.split("_"))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(Problem("", "trainer", f"no module {error.name!r} can be imported", name)) from None
    except ValueError:
        raise ConfigError(Problem("", "trainer", "wants a recipe's name or my.module:Class", name)) from None
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module_name]
        raise ConfigError(
            Problem(
                "",
                "trainer",
                f"module {module_name} has no class {class_name or '(none named)'}",
                name,
                nearest(class_name, classes),
                tuple(classes),
            )
        )
    config = getattr(found, "Config", None)
    if not (inspect.isclass(config) and issubclass(config, TrainingConfig)) or not callable(getattr(found, "run", None)):
        raise ConfigError(Problem("", "trainer", "a trainer has run(trial, report) and a class attribute Config, a TrainingConfig", name))
    return found
