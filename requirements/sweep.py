"""Removes what a killed pip left half installed, so that pip does it again.

pip takes a package for installed as soon as its metadata is there. Its last
act is to rewrite RECORD with a row for the file INSTALLER, so a package
without that row, or with a recorded file missing, was cut off in the middle.
"""

import csv
import shutil
import sysconfig
from pathlib import Path


def is_whole(info: Path) -> bool:
    """Whether pip finished this package and all its files are there.

    Args:
        info: The package's ``.dist-info`` folder.

    Returns:
        False also for a package that lost files to an unfinished removal.
    """
    record = info / 'RECORD'
    if not record.is_file():
        return False
    with record.open(newline='', encoding='utf-8') as lines:
        paths = [row[0] for row in csv.reader(lines) if row]
    if f'{info.name}/INSTALLER' not in paths:
        return False
    return all(
        (info.parent / path).exists()
        for path in paths
        if not path.endswith('.pyc')
    )


def sweep(site_packages: Path) -> list[str]:
    """Forget every package that is not whole.

    Args:
        site_packages: The folder that pip installs into.

    Returns:
        The names of the folders that were removed.
    """
    # A leading tilde marks what pip set aside while it replaced a package.
    broken = list(site_packages.glob('~*'))
    broken += [
        info
        for info in site_packages.glob('*.dist-info')
        if not is_whole(info)
    ]
    for path in broken:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    return sorted(path.name for path in broken)


if __name__ == '__main__':
    for name in sweep(Path(sysconfig.get_path('purelib'))):
        print(f'    half installed, to be repeated: {name}')
