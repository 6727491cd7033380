"""The recipes' programs as commands, for those who have the package and no checkout.

    couloir train RECIPE ...      couloir decode RECIPE ...      couloir export RECIPE ...      couloir prepare ...

They are the programs of the recipes' folders, which the package carries (setup.py), run with the same flags.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from couloir.errors import UserError, unknown_name

_INSTALLED = Path(__file__).resolve().with_name("recipe_programs")
ROOT = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1]
"""The folder of the recipes and of prepare.sh: the checkout, or what the package carries of it."""
PROGRAMS = {
    "train": re.compile(r"\w*train\w*|finetune\w*"),
    "decode": re.compile(r"\w*decode\w*"),
    "export": re.compile(r"export\w*"),
}
"""Which of a recipe's programs belong to a command; one of its own name is the first."""
SUMMARIES = {
    "train": "train a model of a recipe",
    "decode": "decode the test sets of a trained model, and score them",
    "export": "files of a trained model for other programs",
    "prepare": "from corpora, or a folder of your own, to what training reads",
}


def recipes() -> dict[str, Path]:
    """The recipes' folders by name: those with a train.py."""
    found = sorted([*ROOT.glob("*/train.py"), *ROOT.glob("egs/**/train.py")])
    return {path.parent.relative_to(ROOT).as_posix(): path.parent for path in found}


def programs_of(command: str, recipe: Path) -> dict[str, Path]:
    """A recipe's programs for a command by name, the one that needs no naming first."""
    found = [path for path in recipe.glob("*.py") if PROGRAMS[command].fullmatch(path.stem)]
    return {path.stem: path for path in sorted(found, key=lambda path: (path.stem != command, path.stem))}


def find_program(command: str, name: str) -> Path:
    """The program that ``RECIPE`` or ``RECIPE/PROGRAM`` names, where a recipe is a name or a folder of one's own.

    Raises:
        UserError: there is none.
    """
    recipe, _, program = name.rstrip("/").rpartition("/")
    if folder := _recipe_folder(command, name):
        programs = programs_of(command, folder)
        if not programs:
            raise UserError(f"recipe {name} has no program to {command} with")
        return next(iter(programs.values()))
    if recipe and (folder := _recipe_folder(command, recipe)):
        programs = programs_of(command, folder)
        if program.removesuffix(".py") in programs:
            return programs[program.removesuffix(".py")]
        raise unknown_name(f"program to {command} with in {recipe}:", program, list(programs))
    raise unknown_name("recipe", name, list(recipes()))


def _recipe_folder(command: str, name: str) -> Path | None:
    known = recipes()
    if name.rstrip("/") in known:
        return known[name.rstrip("/")]
    ends = [folder for folder in known.values() if folder.name == name]
    if len(ends) == 1:
        return ends[0]
    own = Path(name)
    return own if (own / "train.py").is_file() or programs_of(command, own) else None


def _listing(command: str) -> str:
    lines = [f"usage: couloir {command} RECIPE [flags]        (couloir {command} RECIPE --help shows the flags)", ""]
    for name, folder in recipes().items():
        for index, (program, path) in enumerate(programs_of(command, folder).items()):
            lines.append(f"  {name if index == 0 else f'{name}/{program}':42} {_summary(path)}")
    return "\n".join([*lines, "", "RECIPE may be a folder of your own that holds such programs, too."])


def _summary(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0]


def run_program(command: str, words: Sequence[str]) -> None:
    """Run a recipe's program with the words after its name. Ends as that ends, with `SystemExit`.

    Raises:
        UserError: no recipe is named, or none of that name is there.
    """
    if words[:1] in (["-h"], ["--help"]):
        print(_listing(command))
        return
    if not words or words[0].startswith("-"):
        raise UserError(f"couloir {command} must be followed by a recipe: {', '.join(recipes())}")
    program = find_program(command, words[0])
    sys.argv = [str(program), *words[1:]]
    # As Python does for a program; a recipe of one's own may import those of others.
    sys.path[:0] = [str(program.parent), str(ROOT)]
    runpy.run_path(str(program), run_name="__main__")


def prepare(words: Sequence[str]) -> NoReturn:
    """Become prepare.sh, of a recipe where one is named first. What it reads and makes is below the working folder.

    Raises:
        UserError: that recipe has none.
    """
    script = ROOT / "prepare.sh"
    if words and not words[0].startswith("-"):
        folder = next(
            (
                path
                for path in (ROOT / words[0], ROOT / "egs" / words[0], Path(words[0]))
                if (path / "prepare.sh").is_file()
            ),
            None,
        )
        if folder is None:
            raise UserError(f"{words[0]} has no prepare.sh; without it that of all recipes is run")
        script, words = folder / "prepare.sh", words[1:]
    where = {"PYTHON": os.environ.get("PYTHON") or sys.executable, "COULOIR_WORK_DIR": os.getcwd()}
    os.execvpe("bash", ["bash", str(script), *words], {**os.environ, **where})
