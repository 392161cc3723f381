"""The table of what trains, logged once when training starts."""

from dataclasses import dataclass

from torch import nn

from mmflora.adapters import adapted_modules
from mmflora.checkpoint.record import base_records
from mmflora.checkpoint.roles import Role, parameter_roles


@dataclass
class Row:
    """One component's counts.

    Attributes:
        layers: Number of adapted layers and blocks.
        total: Number of parameters.
        trainable: Number of parameters that train.
    """

    layers: int = 0
    total: int = 0
    trainable: int = 0


def count_parameters(model: nn.Module) -> dict[str, Row]:
    """Count parameters by component, with a row ``'total'`` at the end.

    A backbone has a row for all of it and one for each role in it
    (``'backbone: adapters'``); neck and heads have one each.

    Args:
        model: The whole model, not wrapped.
    """
    rows: dict[str, Row] = {}
    total = Row()
    for item in parameter_roles(model):
        names = [item.name.split('.', 1)[0]]
        if item.part is not None:
            name = item.part or 'backbone'
            names = [name, f'{name}: {_ROLE_NAMES[item.role]}']
        count = item.parameter.numel()
        for row in (total, *(rows.setdefault(key, Row()) for key in names)):
            row.total += count
            row.trainable += count if item.trains else 0
    for part, (backbone, _) in base_records(model).items():
        name, layers = part or 'backbone', len(adapted_modules(backbone))
        adapters = rows.get(f'{name}: {_ROLE_NAMES[Role.ADAPTER]}')
        for row in (total, rows[name], *([adapters] if adapters else [])):
            row.layers += layers
    return {**rows, 'total': total}


def parameter_table(model: nn.Module) -> str:
    """Return the counts of :func:`count_parameters` as a text table."""
    lines = [
        f'{"component":<22}{"adapted layers":>15}{"parameters":>15}'
        f'{"trainable":>15}{"per cent":>10}'
    ]
    lines.append('-' * len(lines[0]))
    for name, row in count_parameters(model).items():
        label = f'  {name.split(": ")[1]}' if ': ' in name else name
        share = 100 * row.trainable / row.total if row.total else 0.0
        layers = str(row.layers) if row.layers else ''
        if name == 'total':
            lines.append(lines[1])
        lines.append(
            f'{label:<22}{layers:>15}{row.total:>15,}{row.trainable:>15,}'
            f'{share:>10.3f}'
        )
    return '\n'.join(lines)


_ROLE_NAMES = {
    Role.BASE: 'frozen base',
    Role.ADAPTER: 'adapters',
    Role.CORE: 'adapters',
    Role.TUNED: 'tuned base',
    Role.NEW: 'new',
}
