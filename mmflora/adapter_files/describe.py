"""What is in adapters' files, as text."""

from collections.abc import Iterable
from pathlib import Path

from .adapter import AdapterFile, bytes_of
from .read import read_adapter
from .schema import CONFIG_NAME


def describe_adapter(adapter: AdapterFile, layers: bool = False) -> str:
    """Return what an adapter is, a line each.

    Args:
        adapter: The adapter.
        layers: List every layer with the shapes of its tensors, too.
    """
    config = adapter.config
    classes = config['dataset_meta'].get('classes') or []
    lines = [
        f'file       {adapter.path}',
        f'toolkit    {config["toolkit"]}, model {config["model"]}',
        f'classes    {len(classes)}: {", ".join(map(str, classes[:8]))}'
        + ', …' * (len(classes) > 8),
    ]
    for name, backbone in config['backbones'].items():
        method, base = backbone['method'], backbone['base']
        source = base.get('source') or {}
        lines += [
            f"backbone   '{name}'",
            f'  method   {method.get("adapter")}',
            f'  targets  {method.get("targets")}, '
            f'exclude {method.get("exclude")}',
            f'  base     {source.get("checkpoint", "saved along")}, '
            f'layout {base.get("layout")}',
            f'  sha256   {base.get("sha256")}',
        ]
        if method.get('quantize'):
            lines.append(f'  quantize {method["quantize"]}')
    for group, keys in adapter.groups().items():
        size = bytes_of(adapter.tensors[key] for key in keys)
        lines.append(f'{group:10} {len(keys)} tensors, {size / 1e6:.2f} MB')
    lines.append(f'metrics    {config["metrics"] or "none"}')
    lines.append(f'versions   {config["versions"]}')
    if layers:
        for layer, tensors in adapter.layers().items():
            shapes = ', '.join(
                f'{key} {tuple(value.shape)}' for key, value in tensors.items()
            )
            lines.append(f'  {layer}: {shapes}')
    return '\n'.join(lines)


def list_adapters(folders: Iterable[Path]) -> list[str]:
    """Return a line for each adapter at or below some places.

    What looks like an adapter and is none, or is damaged, gets a line too.

    Raises:
        FileNotFoundError: If a place is not there.
    """
    lines = []
    for place in folders:
        if not place.exists():
            raise FileNotFoundError(
                f"Nothing is at '{place}'. Give folders or files."
            )
        for path in find_adapters(place):
            try:
                adapter = read_adapter(path)
            except (ValueError, OSError) as error:
                lines.append(f'{path}: not readable: {error}')
                continue
            methods = {
                str((part['method'].get('adapter') or {}).get('type'))
                for part in adapter.config['backbones'].values()
            }
            size = bytes_of(adapter.tensors.values()) / 1e6
            lines.append(
                f'{path}: {", ".join(sorted(methods))}, '
                f'{adapter.config["toolkit"]}, {size:.2f} MB'
            )
    return lines


def find_adapters(place: Path) -> list[Path]:
    """Return the adapters at or below a place, sorted."""
    if place.is_file() or (place / CONFIG_NAME).is_file():
        return [place]
    folders = {path.parent for path in place.rglob(CONFIG_NAME)}
    files = {
        path
        for path in place.rglob('*.safetensors')
        if path.parent not in folders and not path.name.startswith('.')
    }
    return sorted(folders | files)


def bytes_at(place: str | Path) -> int:
    """Return the size of a file, or of a folder's files."""
    path = Path(place)
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
