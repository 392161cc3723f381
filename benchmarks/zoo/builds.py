"""Whether a config's model builds, stock and adapted, and what differs."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmflora.adapters import adapted_modules
from mmflora.checkpoint.record import RECORD_NAME, base_records
from mmflora.config.build import build_model
from mmflora.config.peft import adapt_config
from mmflora.count.parameters import count_model
from mmflora.models import frozen

from .configs import ZooConfig, read_zoo_config


def check_build(
    config: ZooConfig, method: str, text_model: str
) -> dict[str, Any]:
    """Build a config's model, stock and adapted, and compare the two.

    Models are on the meta device if possible, without weights.

    Args:
        config: Which.
        method: A method, as the tools take it.
        text_model: The folder of a text encoder.

    Returns:
        ``stock`` and ``adapted``: ``True``, or why not, ``''`` if that was
        not tried; and what is known of the adapted model.
    """
    result: dict[str, Any] = dict(stock='', adapted='')
    try:
        cfg = read_zoo_config(config, text_model)
        stock, device = _build_stock(cfg)
    except Exception as error:
        return result | dict(stock=why_not(error))
    result |= dict(stock=True, model=type(stock).__name__)
    result['parameters'] = sum(p.numel() for p in stock.parameters())
    try:
        return result | _check_adapted(cfg, method, stock, device)
    except Exception as error:
        return result | dict(adapted=why_not(error))


def _build_stock(cfg: Config) -> tuple[nn.Module, str]:
    """Build on the meta device, or on the CPU what computes as it is built."""
    try:
        return build_model(cfg, weights=False, device='meta'), 'meta'
    except (RuntimeError, NotImplementedError):
        return build_model(cfg, weights=False, device='cpu'), 'cpu'


def _check_adapted(
    cfg: Config, method: str, stock: nn.Module, device: str
) -> dict[str, Any]:
    adapted_cfg, _ = adapt_config(cfg, method, weights=False)
    with _noted_reports() as reports:
        model = build_model(adapted_cfg, weights=False, device=device)
    left_out = Counter(
        _general(why) for report in reports for why in report.left_out.values()
    )
    return dict(
        adapted=True,
        keys=_compare(stock, model) or True,
        parts=list(base_records(model)),
        layers=sum(len(report.adapted) for report in reports),
        left_out=dict(left_out),
        trainable=count_model(model).trainable,
    )


def why_not(error: Exception) -> str:
    """Return an error in one line, without paths of this machine."""
    text = ' '.join(f'{type(error).__name__}: {error}'.split())
    text = re.sub(r', the current sys.path is:.*', '', text)
    text = re.sub(r"(?<=['\"])/[^'\"]*?/(site-packages|mmflora)/", '', text)
    return text if len(text) < 300 else text[:297] + '…'


def own_keys(model: nn.Module) -> list[str]:
    """Return the keys that adapting a model added."""
    added = [f'{name}.adapter.' for name in adapted_modules(model)]
    records = [f'{name}.{RECORD_NAME}.' for name in base_records(model)]
    prefixes = (*added, *records)
    return [key for key in model.state_dict() if key.startswith(prefixes)]


def _compare(stock: nn.Module, model: nn.Module) -> str:
    """Return how the keys of a model differ from those of the stock one."""
    own = set(own_keys(model))
    before = _shapes(stock.state_dict())
    after = _shapes(
        {k: v for k, v in model.state_dict().items() if k not in own}
    )
    gone = [key for key in before if key not in after]
    new = [key for key in after if key not in before]
    other = [k for k in before if k in after and before[k] != after[k]]
    parts = dict(gone=gone, new=new, reshaped=other)
    return '; '.join(
        f'{len(keys)} {what}, such as {keys[0]}'
        for what, keys in parts.items()
        if keys
    )


def _shapes(state: Mapping[str, Any]) -> dict[str, torch.Size | None]:
    return {key: getattr(v, 'shape', None) for key, v in state.items()}


def _general(reason: str) -> str:
    """Return a reason without the numbers of one layer."""
    return re.sub(r'\d+', 'N', reason)


@contextmanager
def _noted_reports() -> Iterator[list[Any]]:
    """Note the report of each injection in the models built meanwhile."""
    reports: list[Any] = []
    inject = frozen.inject

    def noted(*args: Any, **kwargs: Any) -> Any:
        reports.append(inject(*args, **kwargs))
        return reports[-1]

    frozen.inject = noted
    try:
        yield reports
    finally:
        frozen.inject = inject
