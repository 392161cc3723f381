"""Adapters of other projects for a config's model, and back."""

from torch import nn

from mmflora.adapter_files import AdapterFile
from mmflora.adapter_files.apply import load_backbones
from mmflora.adapter_files.convert import from_state
from mmflora.adapter_files.read import read_any
from mmflora.checkpoint.record import IMPORTED, BaseRecord, base_records
from mmflora.config.build import build_model, read_config
from mmflora.files.training_checkpoints import load_checkpoint

from .authors import authors_prefix, load_authors_flora
from .peft_lora import load_peft_lora, write_peft_lora


def import_foreign(kind: str, path: str, config: str) -> AdapterFile:
    """Make an adapter of one of another project.

    Such files hold neither neck nor heads.  The result holds its adapters
    alone and says so: ``load_from`` starts a training from it and leaves all
    else as the training has it; a test refuses it.

    Args:
        kind: ``'peft'``, a folder of huggingface/peft with a LoRA; or
            ``'authors'``, a state dict of FLoRA's authors.
        path: The folder or file.
        config: The path of a config whose backbone has the same adapters.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the adapter does not fit the config's backbone, or that
            backbone has no base.
    """
    cfg = read_config(config)
    model = build_model(cfg)
    name, backbone, record = _only_backbone(model)
    if not record.in_place:
        raise ValueError(
            f"'{config}': the backbone has no base, and adapters belong to "
            "one. Set `init_cfg=dict(type='Pretrained', checkpoint=...)`."
        )
    if kind == 'peft':
        load_peft_lora(backbone, path)
    else:
        state = load_checkpoint(path, bare=True)['state_dict']
        load_authors_flora(backbone, state, authors_prefix(backbone, state))
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


def export_peft(adapter: str, config: str, folder: str) -> None:
    """Write a trained LoRA as a folder of huggingface/peft.

    Args:
        adapter: A checkpoint or an adapter's file.
        config: The path of the config that it was trained with.
        folder: Where to write.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the adapter does not fit, or is no LoRA of peft.
    """
    model = build_model(read_config(config))
    load_backbones(model, read_any(adapter))
    write_peft_lora(_only_backbone(model)[1], folder)


def _only_backbone(model: nn.Module) -> tuple[str, nn.Module, BaseRecord]:
    found = [(name, *pair) for name, pair in base_records(model).items()]
    if len(found) != 1:
        raise ValueError(
            f'{type(model).__name__} has {len(found)} backbones with a '
            'frozen base; one is needed. Give a config of mmflora.'
        )
    return found[0]
