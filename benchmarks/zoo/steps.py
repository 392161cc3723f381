"""One training step of an adapted model on a made batch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.runner import load_checkpoint
from torch import Tensor, nn

from mmflora.adapters import adapted_modules
from mmflora.checkpoint.record import base_records
from mmflora.checkpoint.roles import base_keys, frozen_by_owner
from mmflora.checkpoint.state import adapter_state_dict
from mmflora.config.build import build_model
from mmflora.config.peft import peft_config

from .bases import write_bases
from .batches import made_batch
from .configs import ZooConfig, read_zoo_config
from .shrink import SIZE, shrink


def check_step(
    config: ZooConfig, method: str, text_model: str, size: int = SIZE
) -> dict[str, Any]:
    """Train the adapted model of a config for one step, on the CPU.

    Args:
        config: Which.
        method: A method, as the tools take it.
        text_model: The folder of a text encoder.
        size: Height and width of the images.

    Returns:
        ``loss``; ``adapters``, how many there are; ``unlearned``, how many of
        them have no gradient, and the first, by why.

    Raises:
        AssertionError: If the step breaks a promise, such as a changed base.
        Exception: If the model does not build or compute.
    """
    cfg = read_zoo_config(config, text_model)
    shrink(cfg, size)
    with TemporaryDirectory() as folder:
        bases = write_bases(cfg, Path(folder))
        adapted_cfg = peft_config(cfg, method)
        model = _model_to_train(adapted_cfg)
        noted = _note_gradients(model)
        losses = _step(model, adapted_cfg, made_batch(cfg, size))
        for name, loss in losses.items():
            assert torch.isfinite(loss).all(), f'the loss {name} is {loss}'
        _check_bases(model, bases)
        idle = _without_gradient(model, noted)
        result = dict(
            loss=float(losses['loss']),
            adapters=len(adapted_modules(model)),
            unlearned={
                why: [len(names), names[0]]
                for why, names in _explain(idle, model, cfg, size).items()
            },
        )
        _check_reload(model, adapted_cfg, Path(folder) / 'adapters.pth')
    return result


def check_stock_step(
    config: ZooConfig, text_model: str, size: int = SIZE
) -> dict[str, Any]:
    """Train the stock model of a config for one step on the same batch."""
    cfg = read_zoo_config(config, text_model)
    shrink(cfg, size)
    model = _stock_to_train(cfg, weights=False)
    losses = _step(model, None, made_batch(cfg, size))
    return dict(loss=float(losses['loss']))


def _stock_to_train(cfg: Config, weights: bool = True) -> nn.Module:
    """Return the stock model, with the bases of the config or without.

    All of it trains.
    """
    return _model_to_train(cfg, weights).requires_grad_(True)


def _model_to_train(cfg: Config, weights: bool = True) -> nn.Module:
    """Return a model as the runner has it when training starts."""
    torch.manual_seed(1)
    model = build_model(cfg, weights=weights)
    init: Any = model.init_weights
    init()
    model.train()  # some classes return nothing
    hub = MessageHub.get_current_instance()
    for name in ('iter', 'epoch'):  # which the runner tells
        hub.update_info(name, 0)
    hub.update_info('max_iters', 1)
    if hasattr(model, 'set_epoch'):
        model.set_epoch(0)
    return model


def _step(
    model: nn.Module, cfg: Config | None, batch: dict[str, Any]
) -> dict[str, Tensor]:
    """Train for a step, as MMEngine does; return the parts of the loss."""
    settings = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
    if cfg is not None and 'optim_wrapper' in cfg:
        settings = cfg.optim_wrapper.to_dict()
    wrapper = build_optim_wrapper(model, settings)
    seen: dict[str, Tensor] = {}
    parse: Callable[..., Any] = model.parse_losses

    def noted(losses: Any) -> Any:
        total, logged = parse(losses)
        seen.update({k: v.detach() for k, v in logged.items()})
        return total, logged

    model.parse_losses = noted  # type: ignore[assignment]
    torch.manual_seed(2)
    try:
        train: Any = model.train_step
        train(batch, wrapper)
    finally:
        del model.parse_losses
    return seen


def _note_gradients(model: nn.Module) -> set[str]:
    """Let a set know the parameters that get a gradient other than 0."""
    noted: set[str] = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:

            def note(grad: Tensor, name: str = name) -> None:
                if bool(grad.ne(0).any()):
                    noted.add(name)

            parameter.register_hook(note)
    return noted


def _without_gradient(model: nn.Module, noted: set[str]) -> list[str]:
    """Return the adapted layers none of whose adapter got a gradient."""
    return [
        name
        for name, layer in adapted_modules(model).items()
        if not any(
            f'{name}.adapter.{key}' in noted
            for key, _ in layer.adapter.named_parameters()
        )
    ]


def _explain(
    idle: list[str], model: nn.Module, cfg: Config, size: int
) -> dict[str, list[str]]:
    """Sort layers by why their adapters have no gradient."""
    result: dict[str, list[str]] = {}
    if not idle:
        return result
    teachers = tuple(f'{name}.' for name in frozen_by_owner(model))
    taught = [name for name in idle if name.startswith(teachers)]
    if taught:
        result['its owner froze the part'] = taught
        idle = [name for name in idle if name not in taught]
    if not idle:
        return result
    stock = _stock_to_train(cfg)
    noted = _note_gradients(stock)
    _step(stock, None, made_batch(cfg, size))
    for name in idle:
        learns = f'{name}.weight' in noted
        why = 'adapter alone' if learns else 'nor has the stock weight'
        result.setdefault(why, []).append(name)
    return result


def _check_bases(
    model: nn.Module, bases: Mapping[str, dict[str, Tensor]]
) -> None:
    """Check that each base is the one in its file, bit for bit."""
    for name, (part, record) in base_records(model).items():
        source = record.source or {}
        file, prefix = source.get('checkpoint'), source.get('prefix') or ''
        assert file in bases, f"'{name}' has the base {file}"
        state, base = part.state_dict(), bases[file]
        for key in record.base_keys:
            same = torch.equal(state[key], base[prefix + key])
            assert same, f"'{name}.{key}' is not as in the base's file"
        new = {key.rpartition('.')[0] for key in record.new_keys}
        for key, buffer in part.named_buffers():
            if prefix + key in base and key.rpartition('.')[0] not in new:
                same = torch.equal(buffer, base[prefix + key])
                assert same, f"'{name}.{key}' is not as in the base's file"


def _check_reload(model: nn.Module, cfg: Config, file: Path) -> None:
    """Check that an adapter checkpoint restores the model, bit for bit."""
    ours = model.state_dict(keep_vars=True)
    with adapter_state_dict():
        state = model.state_dict()
    held = base_keys(model) & state.keys()
    assert not held, f'the adapter checkpoint holds the base: {min(held)}'
    torch.save(dict(state_dict=state, meta={}), file)
    torch.manual_seed(3)
    fresh = build_model(cfg)
    load_checkpoint(fresh, str(file), map_location='cpu')
    theirs = fresh.state_dict()
    known = {id(tensor) for key, tensor in ours.items() if key in theirs}
    for key, tensor in ours.items():
        if key not in theirs:  # DDQ shares branches when it draws weights
            assert id(tensor) in known, f"'{key}' is not in the reloaded model"
        elif isinstance(tensor, Tensor):
            same = torch.equal(tensor, theirs[key])
            assert same, f"'{key}' is another one in the reloaded model"
