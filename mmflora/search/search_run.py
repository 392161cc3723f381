"""A search from the supernet's checkpoint to the log of all architectures."""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmflora.adapter_files.adapter import AdapterFile
from mmflora.checkpoint.record import content_hash

from .evolution import Evolution, evolve
from .search_log import SearchLog
from .space import Architecture, Space, described
from .supernet import Supernet, validation_config


class Goal(NamedTuple):
    """What a search looks for.

    Attributes:
        budget: The most parameters of all adapters.
        metric: The metric; ``None`` for the one that ``save_best`` of the
            config names, else the first mAP or mIoU, else the first.
        rule: ``'greater'`` or ``'less'``: which values are better.
    """

    budget: int
    metric: str | None = None
    rule: str = 'greater'

    def score(self, value: float) -> float:
        """Return a value as a score, the higher the better."""
        if math.isnan(value):
            return -math.inf
        return value if self.rule == 'greater' else -value

    def value(self, score: float) -> float:
        """Return the value of a score."""
        return score if self.rule == 'greater' else -score


class SearchResult(NamedTuple):
    """What a search found.

    Attributes:
        best: The architecture.
        metric: The metric that it is best in.
        rows: All tested architectures, see :class:`SearchLog`.
    """

    best: Architecture
    metric: str
    rows: list[dict[str, Any]]


def run_search(
    cfg: Config,
    adapter: AdapterFile,
    space: Space,
    goal: Goal,
    evolution: Evolution,
    log_file: Path,
    say: Callable[[str], None],
) -> SearchResult:
    """Search an architecture, or go on with a search that was interrupted.

    Args:
        cfg: The supernet's config.
        adapter: The trained supernet.
        space: Its architectures.
        goal: See there.
        evolution: See there.
        log_file: The log, see :class:`SearchLog`.
        say: Gets a line for each architecture.

    Raises:
        FileNotFoundError: If data are missing.
        ValueError: If something does not fit, see :func:`validation_config`,
            :class:`SearchLog` and :class:`Supernet`.
    """
    space.check_budget(goal.budget)
    valid = validation_config(cfg)
    if goal.metric is None:
        goal = goal._replace(metric=_watched(cfg))
    header = dict(
        supernet=content_hash(adapter.tensors),
        validation=_digest(valid),
        layers=described(space),
        **goal._asdict(),
        **asdict(evolution),
    )
    # First, as it starts the processes that share the log.
    supernet = Supernet(
        valid, adapter.path, [one.name for one in space.layers]
    )
    log = SearchLog(log_file, header, space)
    trials = _Trials(supernet, log, goal, evolution, say)
    best, _ = evolve(space, goal.budget, evolution, trials.score)
    return SearchResult(best, str(trials.metric), log.rows)


def _watched(cfg: Config) -> str | None:
    """Return the metric by which the training keeps its best checkpoint."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    names = hook.get('save_best')
    name = names[0] if isinstance(names, list) and names else names
    return name if isinstance(name, str) and name != 'auto' else None


def _digest(cfg: Config) -> str:
    """Return a hash of what a test of the config depends on."""
    names = ('model', 'test_dataloader', 'test_evaluator', 'test_cfg')
    text = Config({name: cfg.get(name) for name in names}).pretty_text
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Trials:
    """Tests architectures, or knows their metrics from the log."""

    def __init__(
        self,
        supernet: Supernet,
        log: SearchLog,
        goal: Goal,
        evolution: Evolution,
        say: Callable[[str], None],
    ) -> None:
        self.supernet, self.log, self.goal = supernet, log, goal
        self.most = evolution.population * evolution.generations
        self.say, self.done, self.best = say, 0, -math.inf
        self.metric: str | None = None
        self.seconds: list[float] = []

    def score(self, architecture: Architecture, generation: int) -> float:
        """Return an architecture's score."""
        metrics, known = self.log.metrics(architecture), True
        if metrics is None:
            metrics, known = self._test(architecture), False
        if self.metric is None:
            self.metric = _metric(self.goal.metric, metrics)
        if not known:
            self.log.add(architecture, generation, metrics)
        value = metrics[self.metric]
        score = self.goal.score(value)
        self.best = max(self.best, score)
        self.done += 1
        count = self.log.space.parameters(architecture)
        self.say(
            f'{self.done:>4}/{self.most}  generation {generation}  '
            f'{count:>12,} parameters  {self.metric} {value:.4f}  '
            f'best {self.goal.value(self.best):.4f}  {self._rest(known)}'
        )
        return score

    def _test(self, architecture: Architecture) -> dict[str, float]:
        ranks = self.log.space.ranks(architecture)
        start = time.perf_counter()
        metrics = self.supernet.test(ranks)
        self.seconds.append(time.perf_counter() - start)
        return metrics

    def _rest(self, known: bool) -> str:
        """Return how long the search still takes, at most."""
        if known:
            return '(from the log)'
        mean = sum(self.seconds) / len(self.seconds)
        minutes = mean * (self.most - self.done) / 60
        return f'at most {minutes:.0f} min left'


def _metric(wanted: str | None, metrics: dict[str, float]) -> str:
    """Return the metric that counts.

    Raises:
        ValueError: If the test has none, or not the wanted one.
    """
    if not metrics:
        raise ValueError(
            'The validation returned no numbers: its evaluator has no metric '
            'to compare architectures by. Set val_evaluator in the config.'
        )
    if wanted is None:
        usual = [name for name in metrics if name.endswith(('mAP', 'mIoU'))]
        return [*usual, *metrics][0]
    if wanted not in metrics:
        raise ValueError(
            f'--metric: the validation has no {wanted!r}; it has '
            f'{", ".join(metrics)}.'
        )
    return wanted
