"""All about the package stands in pyproject.toml, but for this: folders beside couloir/ are a part of it.

web/ is couloir/web_page, and couloir/recipe_programs has the recipes' programs and prepare.sh as they lie here.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PROGRAMS = "couloir.recipe_programs"
tops = ["local", "egs", *(path.parent.name for path in ROOT.glob("*/train.py"))]
folders = {path.parent.relative_to(ROOT) for top in tops for path in (ROOT / top).rglob("*.py")}
programs = {".".join((PROGRAMS, *folder.parts)): folder.as_posix() for folder in sorted(folders)}


class BuildPy(build_py):
    """The modules of packages, of which setup.py beside prepare.sh is none."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """(package, module, file) of each."""
        return [] if package == PROGRAMS else super().find_package_modules(package, package_dir)


setup(
    cmdclass={"build_py": BuildPy},
    packages=[*find_packages(include=["couloir*"]), "couloir.web_page", PROGRAMS, *programs],
    package_dir={"couloir.web_page": "web", PROGRAMS: ".", **programs},
)
