"""Adapters whose start needs data.

Such an adapter names a statistic of its layer.  Before the first training,
:func:`mmflora.adapters.calibration.calibrate` gathers it from a few batches,
and the adapter makes its start of it.  The start, and that it was made, are
in the adapter's state, so that no later run needs the data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .base import Adapter, AdapterBase
from .quantized import QuantizedWeight
from .settings import check_count, check_factor
from .targets import check_names

_NAME = '`calibration`'
OF_GRADIENTS = ('gradient', 'sensitivity')


@dataclass(frozen=True)
class Calibration:
    """How statistics are gathered, ``calibration=dict(...)`` in a config.

    Attributes:
        batches: How many training batches go through the frozen model, in
            each process.
        gigabytes: How much memory the statistics may take at once.  If they
            need more, the batches go through the model several times, each
            time for some of the layers.
    """

    batches: int
    gigabytes: float = 2.0

    @classmethod
    def of(cls, settings: Any) -> 'Calibration':
        """Check the settings of a config.

        Raises:
            TypeError: If they are no dict, or a setting is unknown.
            ValueError: If a number is out of its range.
        """
        if not isinstance(settings, dict) or 'batches' not in settings:
            raise TypeError(
                f'{_NAME} is a dict with the number of batches, such as '
                f'dict(batches=8), got {settings!r}.'
            )
        check_names(_NAME, 'setting', settings, ('batches', 'gigabytes'))
        check_count(_NAME, 'batches', settings['batches'])
        gigabytes = settings.get('gigabytes', cls.gigabytes)
        if check_factor(_NAME, 'gigabytes', gigabytes) < 0:
            raise ValueError(
                f'{_NAME}: `gigabytes` is a positive number, got '
                f'gigabytes={gigabytes!r}.'
            )
        return cls(settings['batches'], float(gigabytes))


class Calibrated(AdapterBase):
    """An adapter, of a layer or a block, that may ask for a statistic.

    Its constructor calls :meth:`ask_for`; before it computes in training,
    :meth:`check_start` is called, by a block's adapter itself.

    Attributes:
        by_batches: Whether batches of training data give the statistic.
        statistic: The statistic's name in
            :data:`mmflora.adapters.layer_statistics.STATISTICS`, ``''`` if
            it asks for none.
        calibration: How to gather it, if a config said so.
        is_calibrated: Whether it was made before, here or in the run that a
            loaded checkpoint is of.
    """

    by_batches: ClassVar[bool] = True
    statistic: str = ''
    calibration: Calibration | None = None
    is_calibrated: bool = True
    calibrated: Tensor

    def ask_for(self, statistic: str, weight: Tensor) -> None:
        """Ask for a statistic.

        Args:
            statistic: Its name.
            weight: The frozen weight, of a block any tensor of its type.

        Raises:
            ValueError: If the weight can't have it.
        """
        if statistic in OF_GRADIENTS and isinstance(weight, QuantizedWeight):
            raise ValueError(
                f'{type(self).__name__} needs the gradient of the weight, '
                'which a quantized weight does not have. Leave `quantize` '
                'out, or leave the layer out with `exclude`.'
            )
        self.statistic, self.is_calibrated = statistic, False
        flag = torch.zeros_like(self.parameter_like(weight, 1).data)
        self.register_buffer('calibrated', flag)

    @torch.no_grad()
    def calibrate(self, layer: nn.Module, statistic: Tensor) -> None:
        """Make the start, and note that it was made.

        Args:
            layer: The adapted layer or block.
            statistic: What the adapter has asked for.
        """
        self.start_from(layer, statistic)
        self.calibrated.fill_(1)
        self.is_calibrated = True

    def start_from(self, layer: nn.Module, statistic: Tensor) -> None:
        """Make the start of a statistic; the method's part of it.

        The arguments are those of :meth:`calibrate`.
        """
        raise NotImplementedError

    @classmethod
    def share_out(cls, adapters: Sequence[Any]) -> None:
        """Decide what concerns several layers, once each has its statistic.

        By default nothing does.

        Args:
            adapters: The method's adapters of all layers.
        """

    def follow(self, layer: nn.Module) -> None:
        """Restart over another base; its start is to be made again."""
        super().follow(layer)
        if self.statistic:
            self.calibrated.zero_()
            self.is_calibrated = False

    def check_start(self) -> None:
        """Refuse to train without the start.

        Raises:
            RuntimeError: If it was never made.
        """
        if self.training and not self.is_calibrated:
            raise RuntimeError(
                f'{type(self).__name__} has no start yet: it needs the '
                f"statistic '{self.statistic}' of its layer. {self.remedy()}"
            )

    def remedy(self) -> str:
        """Return how to get the start, for errors."""
        return (
            "In a run, dict(type='mmflora.CalibrationHook') in custom_hooks "
            'gathers it; in a loop of your own, mmflora.calibrate() before '
            'training.'
        )

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.statistic and not self.calibrated.is_meta:
            self.is_calibrated = bool(self.calibrated)


class CalibratedAdapter(Calibrated, Adapter):
    """A weight's adapter that may ask for a statistic of its layer.

    Its layer calls :meth:`check_start`.
    """


def calibrated_layers(model: nn.Module) -> dict[str, Any]:
    """Return the layers and blocks whose adapters ask for a statistic."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module._modules.get('adapter'), Calibrated)
        and module.adapter.statistic
    }


def set_calibration(part: nn.Module, settings: Any) -> None:
    """Give adapters of a frozen part the settings of its calibration.

    Args:
        part: The part, adapted.
        settings: Those of a config, ``None`` if it has none.

    Raises:
        TypeError: If they are not such settings.
        ValueError: If an adapter needs them, and they are missing, or none
            needs them.
    """
    layers = {
        name: layer
        for name, layer in calibrated_layers(part).items()
        if layer.adapter.by_batches
    }
    if settings is None and layers:
        name, layer = next(iter(layers.items()))
        raise ValueError(
            f"{type(layer.adapter).__name__} in '{name}' starts from the "
            f"statistic '{layer.adapter.statistic}' of the training data: "
            'say how many batches it takes, with calibration=dict(batches=8) '
            'beside `adapter`.'
        )
    if settings is None:
        return
    calibration = Calibration.of(settings)
    if not layers:
        raise ValueError(
            f'{_NAME}: no adapter of {type(part).__name__} starts from '
            'statistics of the data. Leave it out, or take a method that '
            'does, such as dict(type="CorDA").'
        )
    for layer in layers.values():
        layer.adapter.calibration = calibration


def assume_calibrated(model: nn.Module) -> None:
    """Let adapters run in training without their start, as estimates do."""
    for layer in calibrated_layers(model).values():
        layer.adapter.is_calibrated = True
