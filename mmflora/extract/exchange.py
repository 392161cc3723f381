"""Adapters of other projects for a config's model, and back."""

from torch import nn

from mmflora.adapter_files import AdapterFile, apply_adapter
from mmflora.adapter_files.convert import from_state
from mmflora.adapter_files.read import read_any
from mmflora.checkpoint import adapter_state_dict
from mmflora.checkpoint.record import base_records
from mmflora.config.build import build_model, read_config
from mmflora.files.training_checkpoints import load_checkpoint

from .authors import authors_prefix, load_authors_flora
from .peft_lora import load_peft_lora, write_peft_lora


def import_foreign(kind: str, path: str, config: str) -> AdapterFile:
    """Put an adapter of another project into a config's model.

    Such files hold neither neck nor heads: these are the model's, freshly
    drawn.  The result is a start for a training, not a model to test.

    Args:
        kind: ``'peft'``, a folder of huggingface/peft with a LoRA; or
            ``'authors'``, a state dict of FLoRA's authors.
        path: The folder or file.
        config: The path of a config whose backbone has the same adapters.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the adapter does not fit the config's backbone.
    """
    cfg = read_config(config)
    model = build_model(cfg)
    backbone = _only_backbone(model)
    if kind == 'peft':
        load_peft_lora(backbone, path)
    else:
        state = load_checkpoint(path, bare=True)['state_dict']
        load_authors_flora(backbone, state, authors_prefix(backbone, state))
    with adapter_state_dict():
        return from_state(
            model.state_dict(), dict(cfg=cfg.pretty_text), {}, path
        )


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
    apply_adapter(model, read_any(adapter))
    write_peft_lora(_only_backbone(model), folder)


def _only_backbone(model: nn.Module) -> nn.Module:
    found = [backbone for backbone, _ in base_records(model).values()]
    if len(found) != 1:
        raise ValueError(
            f'{type(model).__name__} has {len(found)} backbones with a '
            'frozen base; one is needed. Give a config of mmflora.'
        )
    return found[0]
