"""Adapters of other projects for a config's model, and back."""

from mmengine.config import Config
from torch import nn

from mmflora.adapter_files import AdapterFile
from mmflora.adapter_files.apply import load_backbones
from mmflora.adapter_files.convert import from_state
from mmflora.adapter_files.read import read_any
from mmflora.checkpoint.record import IMPORTED, BaseRecord, base_records
from mmflora.config.build import build_model, read_config

from .formats import reader_of, writer_of


def import_foreign(kind: str, path: str, config: str | None) -> AdapterFile:
    """Make an adapter of one of another project.

    Such files hold neither neck nor heads.  The result holds its adapters
    alone and says so: ``load_from`` starts a training from it and leaves all
    else as the training has it; a test refuses it.

    Args:
        kind: The name of a registered format, such as ``'peft'``, a folder
            of huggingface/peft with a LoRA; or ``'authors'``, a state dict of
            FLoRA's authors.
        path: The folder or file.
        config: The path of a config whose backbone has the same adapters.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If there is no such format, no config is given, the
            adapter does not fit the config's backbone, or that has no base.
    """
    read = reader_of(kind)
    cfg = _needed(config)
    model = build_model(cfg)
    _, backbone, record = _only_backbone(model)
    _check_base(record, cfg)
    read(backbone, path)
    return adapters_alone(model, cfg, kind, path)


def adapters_alone(
    model: nn.Module, cfg: Config, kind: str, path: str
) -> AdapterFile:
    """Return the adapters of a model, without neck, heads and statistics.

    Args:
        model: With one backbone that has adapters and a base.
        cfg: The config that it was built from.
        kind: Where they come from, as the result says it.
        path: The file that they come from.

    Raises:
        ValueError: If the backbone has no base.
    """
    name, _, record = _only_backbone(model)
    _check_base(record, cfg)
    record.method = {**record.method, IMPORTED: kind}
    record.set_base(record.source, record.sha256, record.origin)
    prefix = f'{name}.' if name else ''
    added = {
        key: value
        for key, value in model.state_dict().items()
        if key.startswith(prefix)
        and key.removeprefix(prefix) not in record.stock_shapes
    }
    return from_state(added, dict(cfg=cfg.pretty_text), {}, path)


def export_foreign(
    kind: str, adapter: str, config: str | None, out: str
) -> None:
    """Write a trained adapter in a format of another project.

    Args:
        kind: The name of a registered format, such as ``'peft'``.
        adapter: A checkpoint or an adapter's file.
        config: The path of the config that it was trained with.
        out: Where to write.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If there is no such format, no config is given, or the
            adapter does not fit either.
    """
    write = writer_of(kind)
    model = build_model(_needed(config))
    load_backbones(model, read_any(adapter))
    write(_only_backbone(model)[1], out)


def _check_base(record: BaseRecord, cfg: Config) -> None:
    if not record.in_place:
        raise ValueError(
            f"'{cfg.filename}': the backbone has no base, and adapters belong "
            "to one. Set `init_cfg=dict(type='Pretrained', checkpoint=...)`."
        )


def _needed(config: str | None) -> Config:
    if config is None:
        raise ValueError('--from and --to need --config, to build its model.')
    return read_config(config)


def _only_backbone(model: nn.Module) -> tuple[str, nn.Module, BaseRecord]:
    found = [(name, *pair) for name, pair in base_records(model).items()]
    if len(found) != 1:
        raise ValueError(
            f'{type(model).__name__} has {len(found)} backbones with a '
            'frozen base; one is needed. Give a config of mmflora.'
        )
    return found[0]
