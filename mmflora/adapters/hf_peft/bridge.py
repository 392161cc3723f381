"""Any method of huggingface/peft as an adapter."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmflora.registry import ADAPTERS

from ..base import Adapter
from ..quantized import dense
from ..stored import Settings, Stored
from .catalogue import check_options, make_config
from .graft import detach, shadow_of, wrap
from .layers import BridgedLayer, bridged_class
from .stored_lora import READERS, StoredByPeft, meaning_of, signature_of
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

    Example:
        >>> adapter = dict(type='HFPEFT', peft_type='LORA', r=8, use_dora=True)
    """

    peft_layer: Any
    additive = False
    paper = 'https://github.com/huggingface/peft'

    def __init__(
        self,
        weight: Tensor,
        peft_layer: Any,
        config: Any,
        name: str,
        options: Mapping[str, Any],
        verdict: Verdict,
    ) -> None:
        super().__init__(weight)
        self.config = config
        self.name = name
        self.options = dict(options)
        self.starts = verdict.starts
        self.follows = verdict.follows
        self.steady = verdict.steady
        self.why_not_mergeable = verdict.unmergeable
        self.mergeable = not verdict.unmergeable
        # Beside the modules, not among them: its own are this adapter's.
        self.__dict__['peft_layer'] = peft_layer
        for name in ('_parameters', '_buffers', '_modules'):
            self.__dict__[name] = vars(peft_layer)[name]

    @classmethod
    def build_all(
        cls, layers: Mapping[str, nn.Module], **options: Any
    ) -> dict[str, Any]:
        """Build the adapters of layers, which stay as they are.

        Args:
            layers: The layers by their names in the model.
            **options: ``peft_type``, the name of a method of peft, such as
                ``'RANDLORA'``, and settings of its configuration class.

        Returns:
            By name an adapter, or why the layer cannot be adapted.

        Raises:
            TypeError: If the method has no such setting.
            ValueError: If peft has no such method, or the method adapts no
                layers, or a setting is not for an adapter to decide.
            MissingPeft: If peft is not installed.
        """
        peft_type = options.pop('peft_type', None)
        check_options(peft_type, options)
        trials = Trials(peft_type, options)
        verdicts: dict[str, Verdict] = {
            name: trials.verdict(name, layer) for name, layer in layers.items()
        }
        built: dict[str, Any] = {
            name: verdict.refusal for name, verdict in verdicts.items()
        }
        taken = [name for name, reason in built.items() if not reason]
        if not taken:
            return built
        config = make_config(peft_type, options, taken)
        shadows = {name: shadow_of(layers[name]) for name in taken}
        try:
            wrapped = wrap(config, shadows)
        except Exception as error:  # each was tried alone, not all together
            raise ValueError(
                f'HFPEFT: peft cannot adapt {len(taken)} layers together by '
                f'{peft_type.upper()}: {error}'
            ) from error
        detach(wrapped)
        for name in taken:
            adapter = cls(
                layers[name].get_parameter('weight'),
                wrapped[name],
                config,
                name,
                options,
                verdicts[name],
            )
            built[name] = adapter.train(layers[name].training)
        return built

    @classmethod
    def looks_at(
        cls, layer: nn.Module, peft_type: str = '', **options: Any
    ) -> bool:
        weight = layer._parameters.get('weight')
        if str(peft_type).upper() == 'LN_TUNING':
            return weight is not None and weight.dim() == 1
        attention = isinstance(layer, nn.MultiheadAttention)
        return super().looks_at(layer) and (weight is not None or attention)

    @property
    def peft_type(self) -> str:
        """The name of peft's method."""
        return str(self.config.peft_type.value)

    def layer_class(self, layer: nn.Module) -> type[BridgedLayer]:
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
                name: None if value is None else dense(value).detach().to(wide)
                for name, value in parameters.items()
            },
        )
        return {
            name: value.detach()
            for name, value in merged._parameters.items()
            if value is not None
        }

    def meaning(self) -> dict[str, Any]:
        return meaning_of(self.options)

    def signature(self) -> str:
        return signature_of(self.peft_type, self.options)

    def follow(self, layer: nn.Module) -> None:
        """Restart over another base, where the start depends on it.

        Raises:
            ValueError: If the method looks at all layers at once.
        """
        if not self.follows:
            return
        if self.peft_type == 'FROD':
            raise ValueError(
                'FROD takes all frozen weights apart at once, and cannot '
                'restart over another base. Name the base with the '
                "backbone's `init_cfg`, so that it is there from the start."
            )
        config = make_config(self.peft_type, self.options, [self.name])
        base = shadow_of(self.peft_layer.base_layer)
        fresh = wrap(config, {self.name: base})
        detach(fresh)
        state = fresh[self.name].state_dict()
        with torch.no_grad():
            for key, value in self.state_dict(keep_vars=True).items():
                if key in state:  # else another layer's, held here
                    value.copy_(state[key])

    def no_decay_parameters(self) -> Iterator[nn.Parameter]:
        """Yield what the trial found to be no frozen layer at zero."""
        for name, parameter in self.named_parameters():
            if name in self.steady:
                yield parameter

    def remark(self) -> str:
        if not self.starts:
            return (
                f'{self.peft_type} does not start at the frozen layer with '
                'these options'
            )
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
        return self.signature().removeprefix('HFPEFT(').removesuffix(')')

    @classmethod
    def reader(cls, settings: Settings) -> type[Stored]:
        return READERS.get(
            str(settings.get('peft_type')).upper(), StoredByPeft
        )
