"""Any method of huggingface/peft as an adapter."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import Adapter
from .catalogue import check_options, config_class, make_config
from .graft import detach, shadow_of, wrap
from .layers import BridgedLayer, bridged_class
from .trial import Trials, Verdict, merged_base


@ADAPTERS.register_module()
class HFPEFT(Adapter):
    """A method of huggingface/peft that adapts layers in place.

    Peft computes: its layer stands around a shadow of the adapted one, which
    shares the frozen parameters.  The adapter's parameters have peft's names
    (``<layer>.adapter.lora_A.default.weight``); parameters that layers share
    (VeRA's projections, VB-LoRA's bank) stand in the first layer.  Layers
    that the method cannot adapt are left out, and the report says why.

    Adapters come from :meth:`build_all`, as peft must see all layers.

    Args:
        weight: The frozen weight.
        peft_layer: Peft's layer around the adapted one.
        config: Peft's configuration, the same object for all layers.
        described: What gives the parameters their meaning.
        unmergeable: Why it cannot be merged, ``''`` if it can.

    Example:
        >>> adapter = dict(type='HFPEFT', peft_type='LORA', r=8, use_dora=True)
    """

    def __init__(
        self,
        weight: Tensor,
        peft_layer: Any,
        config: Any,
        described: str,
        unmergeable: str = '',
    ) -> None:
        super().__init__(weight)
        self.config = config
        self.described = described
        self.why_not_mergeable = unmergeable
        self.mergeable = not unmergeable
        # Beside the modules, not among them: its own are this adapter's.
        self.__dict__['peft_layer'] = peft_layer
        for name in ('_parameters', '_buffers', '_modules'):
            self.__dict__[name] = vars(peft_layer)[name]

    @classmethod
    def build_all(
        cls, layers: Mapping[str, nn.Module], peft_type: str, **options: Any
    ) -> dict[str, Adapter | str]:
        """Build the adapters of layers, which stay as they are.

        Args:
            layers: The layers by their names in the model.
            peft_type: The name of a method of peft, such as ``'RANDLORA'``.
            **options: Settings of peft's configuration class.

        Returns:
            By name an adapter, or why the layer cannot be adapted.

        Raises:
            TypeError: If the method has no such setting.
            ValueError: If peft has no such method, or the method adapts no
                layers, or a setting is not for an adapter to decide.
            MissingPeft: If peft is not installed.
        """
        config_class(peft_type)
        check_options(peft_type, options)
        trials = Trials(peft_type, options)
        verdicts: dict[str, Verdict] = {
            name: trials.verdict(name, layer) for name, layer in layers.items()
        }
        built: dict[str, Adapter | str] = {
            name: verdict.refusal for name, verdict in verdicts.items()
        }
        taken = [name for name, reason in built.items() if not reason]
        if not taken:
            return built
        config = make_config(peft_type, options, taken)
        wrapped = wrap(
            config, {name: shadow_of(layers[name]) for name in taken}
        )
        detach(wrapped)
        for name in taken:
            built[name] = cls(
                layers[name].get_parameter('weight'),
                wrapped[name],
                config,
                _describe(peft_type, options),
                verdicts[name].unmergeable,
            )
        return built

    @property
    def peft_type(self) -> str:
        """The name of peft's method."""
        return str(self.config.peft_type.value)

    def layer_class(self, layer: nn.Module) -> type[BridgedLayer]:
        """Return the class of the adapted layer."""
        return bridged_class(type(layer))

    def delta_weight(self) -> Tensor:
        """Return the adapted weight less the frozen one, without gradient."""
        weight = self.peft_layer.base_layer.weight.detach()
        return self._merged(weight)['weight'] - weight

    def adapted_weight(self, weight: Tensor) -> Tensor:
        """Return the weight as peft merges it, without gradient.

        Raises:
            ValueError: If peft cannot merge it.
        """
        return self._merged(weight)['weight'].to(weight.dtype)

    def adapted_bias(self, bias: Tensor | None) -> Tensor | None:
        """Return the bias as peft merges it, without gradient.

        Raises:
            ValueError: If peft cannot merge it.
        """
        if bias is None:
            return None
        weight = self.peft_layer.base_layer.weight.detach()
        return self._merged(weight, bias)['bias'].to(bias.dtype)

    def _merged(
        self, weight: Tensor, bias: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Merge in the wider of float32 and the weight's own type."""
        if self.why_not_mergeable:
            raise ValueError(
                f'{self.peft_type} cannot be merged into this layer: '
                f'{self.why_not_mergeable}.'
            )
        base = self.peft_layer.base_layer
        parameters = dict(base._parameters, weight=weight)
        if bias is not None:
            parameters['bias'] = bias
        wide = torch.promote_types(weight.dtype, torch.float32)
        merged = merged_base(
            self.peft_layer,
            {
                name: None if value is None else value.detach().to(wide)
                for name, value in parameters.items()
            },
        )
        return {
            name: value.detach()
            for name, value in merged._parameters.items()
            if value is not None
        }

    def signature(self) -> str:
        """Return the method and those settings that differ from default."""
        return self.described

    def remark(self) -> str:
        """Say that AdaLoRA's ranks need their schedule."""
        if self.peft_type == 'ADALORA':
            return (
                "AdaLoRA keeps every rank unless dict(type='mmflora."
                "AdaLoRAHook') stands in custom_hooks"
            )
        return ''

    def train(self, mode: bool = True) -> 'HFPEFT':
        """Set the mode of peft's layer too, which is no child."""
        super().train(mode)
        self.peft_layer.training = mode
        return self

    def extra_repr(self) -> str:
        """Return the method, as it stands in a printed model."""
        return self.described.removeprefix('HFPEFT(').removesuffix(')')


def _describe(peft_type: str, options: Mapping[str, Any]) -> str:
    """Name what gives the parameters of an adapter their meaning.

    Dropout ends with training, and AdaLoRA's schedule changes values alone.
    """
    settings = ', '.join(
        f'{name}={value!r}'
        for name, value in sorted(options.items())
        if 'dropout' not in name and name != 'total_step'
    )
    return f'HFPEFT({peft_type.upper()}{", " if settings else ""}{settings})'
