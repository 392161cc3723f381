"""Sweeps over the zoos: every config is built, every family takes a step."""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .child import run_in_child
from .configs import ZooConfig, select
from .results import Results
from .shrink import LARGER, SIZE

BUILD_LIMITS = (90, 8.0)
STEP_LIMITS = (300, 8.0)
"""Seconds and gigabytes for one config."""

TRIES = 4
"""How many configs of a family may turn out to be of no use."""

OURS = 'ours: '


def load_toolkits() -> None:
    """Import all that children need, once."""
    import os

    # No network: what asks for it fails at once.
    os.environ.setdefault('HF_HUB_OFFLINE', '1')
    from mmengine.config import Config

    from mmflora.config.build import register_toolkit

    from . import builds, steps  # noqa: F401
    from .configs import TOOLKITS

    for toolkit in TOOLKITS:
        register_toolkit(Config(dict(default_scope=toolkit)))


def sweep_builds(
    configs: Sequence[ZooConfig],
    results: Results,
    method: str,
    text_model: str,
    verbose: bool = False,
) -> None:
    """Build every config, stock and adapted."""
    from .builds import check_build

    def build(config: ZooConfig) -> dict[str, Any]:
        function = partial(check_build, config, method, text_model)
        result = run_in_child(function, *BUILD_LIMITS, verbose)
        if 'error' in result:  # the child died
            result |= dict(stock=_why(result), adapted='')
        return result

    todo = [config for config in configs if config.name not in results.done]
    for config, result in _with_progress(todo, build, lambda c: c.name):
        results.add(config.name, result)


def candidates(
    builds: dict[str, dict[str, Any]],
    only: str | None = None,
    shard: tuple[int, int] = (1, 1),
) -> dict[str, list[ZooConfig]]:
    """Return each family's configs that build adapted, the smallest first.

    Args:
        builds: The results of the builds, by the config's name.
        only: See :func:`benchmarks.zoo.configs.select`.
        shard: Which part of the families.
    """
    families: dict[str, list[ZooConfig]] = {}
    for config in select([ZooConfig.of(name) for name in builds], only):
        families.setdefault(config.family, []).append(config)
    chosen = sorted(families)[shard[0] - 1 :: shard[1]]
    return {
        family: sorted(
            (c for c in families[family] if builds[c.name]['adapted'] is True),
            key=lambda config: builds[config.name]['parameters'],
        )
        for family in chosen
    }


def sweep_families(
    families: dict[str, list[ZooConfig]],
    results: Results,
    method: str,
    text_model: str,
    verbose: bool = False,
) -> None:
    """Let one config of each family take a training step.

    Args:
        families: The configs of each that build, in the order of trying.
        results: Where results go.
        method: A method, as the tools take it.
        text_model: The folder of a text encoder.
        verbose: Whether to show what children print.
    """

    def step(family: str) -> dict[str, Any]:
        first: dict[str, Any] = dict(step='no config of it builds here')
        for config in families[family][:TRIES]:
            result = step_of(config, method, text_model, verbose)
            if result['step'] is True or result['step'].startswith(OURS):
                return result
            first = first if 'config' in first else result
        return first

    todo = [family for family in families if family not in results.done]
    for family, result in _with_progress(todo, step, str):
        results.add(family, result)


def step_of(
    config: ZooConfig, method: str, text_model: str, verbose: bool = False
) -> dict[str, Any]:
    """Let a config take a step; where it fails, let the stock one try.

    Returns:
        ``step``: ``True``, or why not, which begins with ``OURS`` where the
        stock model takes one.
    """
    from .steps import check_step, check_stock_step

    start = time.monotonic()
    for size in (SIZE, LARGER):
        function = partial(check_step, config, method, text_model, size)
        result = run_in_child(function, *STEP_LIMITS, verbose)
        if 'error' not in result:
            result['step'] = True
            break
        function = partial(check_stock_step, config, text_model, size)
        stock = run_in_child(function, *STEP_LIMITS, verbose)
        if 'error' not in stock:
            result['step'] = OURS + _why(result)
            break
        result['step'] = f'the stock model fails too: {_why(stock)}'
    result['seconds'] = round(time.monotonic() - start, 2)
    return result | dict(config=config.name, size=size)


def _why(result: dict[str, Any]) -> str:
    text = ' '.join(f'{result["kind"]}: {result["error"]}'.split())
    where = result.get('where')
    text = text if len(text) < 300 else text[:297] + '…'
    return f'{text} ({where[-1]})' if where else text


def _with_progress(
    items: Sequence[Any],
    function: Callable[[Any], dict[str, Any]],
    name: Callable[[Any], str],
) -> Iterable[tuple[Any, dict[str, Any]]]:
    """Yield items with their results; say how far it is, and what failed."""
    start = time.monotonic()
    for count, item in enumerate(items, 1):
        result = function(item)
        yield item, result
        passed = time.monotonic() - start
        left = passed / count * (len(items) - count)
        wrong = [
            f'{key}: {result[key]}'
            for key in ('stock', 'adapted', 'keys', 'step')
            if result.get(key, True) not in (True, '')
        ]
        _say(
            f'[{count}/{len(items)}, {left / 60:.1f} min left] {name(item)} '
            f'{result.get("seconds", 0):.1f} s {"; ".join(wrong) or "ok"}'
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def results_folder(folder: str) -> Path:
    """Return an absolute path: reading a zoo changes the current folder."""
    return Path(folder).absolute()
