"""Packs configs and tools beside the package; the rest is in pyproject.toml.

MMEngine looks for ``_base_ = 'mmflora::…'``, and MIM for configs and tools,
in the folder ``.mim`` inside the installed package. A wheel gets copies
there. An editable install gets symbolic links to the working tree.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
PACKED = ('configs', 'demo', 'tools', 'model-index.yml')


class BuildWithMim(build_py):
    """Build the package, and ``mmflora/.mim`` in it."""

    def run(self):
        """Start from an empty folder: a removed file must not be packed."""
        if self.editable_mode:
            self._fill(ROOT / 'mmflora' / '.mim', link=True)
            super().run()
            return
        package = Path(self.build_lib, 'mmflora')
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        self._fill(package / '.mim', link=False)

    def _fill(self, folder, link):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        for name in PACKED:
            source, target = ROOT / name, folder / name
            if link:
                target.symlink_to(Path('..', '..', name))
            elif source.is_dir():
                unwanted = shutil.ignore_patterns('__pycache__', '*.pyc')
                shutil.copytree(source, target, ignore=unwanted)
            else:
                shutil.copyfile(source, target)


setup(cmdclass={'build_py': BuildWithMim})
