"""Configs of installed packages by name: ``mmdet::dino/….py``."""

import difflib
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ('mmdet', 'mmseg', 'mmrotate', 'mmflora')
"""The packages whose configs have such names."""


def zoo_config(name: str) -> str:
    """Return the path of a config of an installed package.

    Args:
        name: The package, ``::`` and the path below its ``configs``, with or
            without ``.py``; the file's name alone where no other has it.

    Raises:
        FileNotFoundError: If there is none; names the nearest.  If the
            package's configs are missing.
        ValueError: If the package is unknown or not installed.
    """
    package, _, file = name.partition('::')
    folder = configs_of(package)
    if folder is None:
        raise ValueError(
            f"'{package}::' names no installed package with configs. Known "
            f'are {", ".join(PACKAGES)}.'
        )
    check_set_up(folder)
    wanted = file if file.endswith('.py') else f'{file}.py'
    if (folder / wanted).is_file():
        return str(folder / wanted)
    known = {
        path.relative_to(folder).as_posix(): str(path)
        for path in sorted(folder.rglob('*.py'))
        if '_base_' not in path.parts
    }
    same = [key for key in known if key.rpartition('/')[2] == wanted]
    if len(same) == 1:
        return known[same[0]]
    near = same or difflib.get_close_matches(wanted, known, n=3, cutoff=0.3)
    lines = ''.join(f'\n  {package}::{key}' for key in near)
    raise FileNotFoundError(
        f"No config '{name}' in {folder}. The nearest are:{lines}"
    )


def configs_of(package: str) -> Path | None:
    """Return the folder of a package's configs, ``None`` if there is none."""
    spec = find_spec(package) if package in PACKAGES else None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / '.mim' / 'configs'


def check_set_up(folder: Path) -> None:
    """Check that a package's configs are where its installation puts them.

    A clone that was never installed can be imported, and lacks them.

    Args:
        folder: ``.mim/configs`` of the package, or a folder in it.

    Raises:
        FileNotFoundError: If the folder is missing.
    """
    if folder.is_dir():
        return
    package = next(
        path.parent for path in folder.parents if path.name == '.mim'
    )
    how = f'--force-reinstall {package.name}'
    if (package.parent / 'setup.py').is_file():
        how = f'--no-build-isolation -e {package.parent}'
    raise FileNotFoundError(
        f"The configs of {package.name} are not installed: '{folder}' is not "
        f'there. `pip install --no-deps {how}` puts them there.'
    )
