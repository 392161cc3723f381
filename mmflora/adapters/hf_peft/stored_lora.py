"""Peft's LoRA in files: its update, and sums of several."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..stored import Settings, Stored, Tensors
from ..updates import Update
from .catalogue import config_class

READERS: dict[str, type[Stored]] = {}
"""What reads a method's tensors, by peft's name of it."""


def reads(peft_type: str) -> Any:
    """Register the class that reads the tensors of one of peft's methods."""

    def register(reader: type[Stored]) -> type[Stored]:
        READERS[peft_type] = reader
        return reader

    return register


class StoredByPeft(Stored):
    """A method of peft whose tensors mean nothing without its layers."""

    @classmethod
    def label(cls, settings: Settings) -> str:
        """Return peft's name beside the bridge's."""
        return f'HFPEFT {str(settings.get("peft_type")).upper()}'

    @classmethod
    def stored_signature(cls, tensors: Tensors, settings: Settings) -> str:
        """Return the method and its settings."""
        return signature_of(settings['peft_type'], settings)


def meaning_of(settings: Settings) -> dict[str, Any]:
    """Return those of peft's settings that give tensors their meaning.

    Not those of dropout, which ends with training, nor the length of
    AdaLoRA's schedule, which changes values alone.
    """
    return {
        name: value
        for name, value in sorted(settings.items())
        if 'dropout' not in name and name not in ('peft_type', 'total_step')
    }


def signature_of(peft_type: str, settings: Settings) -> str:
    """Return a method of peft and its settings, as checkpoints hold them."""
    meaning = meaning_of(settings).items()
    named = (f'{name}={value!r}' for name, value in meaning)
    return f'HFPEFT({", ".join([peft_type.upper(), *named])})'


@reads('LORA')
class StoredLoRA(StoredByPeft):
    """ΔW = s B A, with peft's names of A, B and B's bias.

    Args:
        weight: The frozen weight.
        peft_type: ``'LORA'``.
        **settings: Peft's.
    """

    up, down = 'lora_B.default.weight', 'lora_A.default.weight'
    products = ((up, down),)
    linear = {'lora_B.default.bias': 0.0}  # noqa: RUF012
    rank_setting = 'r'

    def __init__(self, weight: Tensor, peft_type: str, **settings: Any):
        config: Any = config_class(peft_type)(**settings)
        root = config.use_rslora
        rank = math.sqrt(config.r) if root else config.r
        self.scale = float(config.lora_alpha / rank)

    @classmethod
    def setting(cls, settings: Settings, name: str) -> Any:
        """Return a setting, or peft's default."""
        return settings.get(name, getattr(config_class('LORA'), name))

    @classmethod
    def stored_update(
        cls, tensors: Tensors, settings: Settings
    ) -> Update | None:
        """Return the factors, unless DoRA's magnitude changes the weight."""
        if settings.get('use_dora'):
            return None
        if not {cls.up, cls.down} <= tensors.keys():
            raise ValueError(
                f'A LoRA of peft has the tensors {sorted(tensors)}; {cls.up} '
                f'and {cls.down} are read, those of an embedding are not. '
                'Give --config.'
            )
        scale = cls.blank((1, 1), settings).scale
        up = scale * tensors[cls.up].double().flatten(1)
        return Update.product(up, tensors[cls.down].double())

    @classmethod
    def summed_settings(cls, settings: Sequence[Settings]) -> dict[str, Any]:
        """Add up the ranks."""
        if any(one.get('use_dora') for one in settings):
            raise ValueError(
                "peft's LoRA with use_dora divides by norms of the sum: it "
                'has no weighted sum. Merge the adapters one by one instead.'
            )
        return super().summed_settings(settings)
