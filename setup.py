"""Lays the repository's conf/ into the package when a wheel is built; an editable install reads it where it stands."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConf(build_py):
    """The package as it stands in src/, and graft/conf."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree("conf", Path(self.build_lib) / "graft" / "conf", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConf})
