"""Peft's LoRA in files: its update, and sums of several."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..stored import Settings, Stored, Tensors
from ..updates import Update
from .catalogue import config_class


class StoredByPeft(Stored):
    """A method of peft whose tensors mean nothing without its layers."""

    @classmethod
    def label(cls, settings: Settings) -> str:
        return f'HFPEFT {str(settings.get("peft_type")).upper()}'

    @classmethod
    def stored_signature(cls, tensors: Tensors, settings: Settings) -> str:
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


class StoredLoRA(StoredByPeft):
    """ΔW = s B A, with peft's names of A, B and B's bias."""

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
        if any(one.get('use_dora') for one in settings):
            raise ValueError(
                "peft's LoRA with use_dora divides by norms of the sum: it "
                'has no weighted sum. Merge the adapters one by one instead.'
            )
        return super().summed_settings(settings)


# By peft's names of the methods; others mean nothing without its layers.
READERS: dict[str, type[Stored]] = {'LORA': StoredLoRA}
