"""setup.sh, with a stand-in for Python that makes an empty virtual environment."""

import os
import shutil
import subprocess

import pytest
from programs import ROOT

STAND_IN = """#!/usr/bin/env bash
case "$1 $2" in
    "-m venv") bin=${!#}/bin; mkdir -p "$bin"; cp "$0" "$bin/python"; cp "$0" "$bin/couloir"; echo made >>"$MADE" ;;
esac
"""


@pytest.fixture
def clone(tmp_path):
    for name in ("setup.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "python-of-mine").write_text(STAND_IN)
    (tmp_path / "python-of-mine").chmod(0o755)
    return tmp_path


def bash(clone, command, expect=0, **environment):
    env = {"PATH": os.defpath + ":/usr/bin:/bin", "MADE": str(clone / "made"), **environment}
    env.setdefault("COULOIR_PYTHON", str(clone / "python-of-mine"))
    done = subprocess.run(["bash", "-c", command], cwd=clone, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == expect, done.stderr
    return done


def test_after_setup_the_readmes_couloir_and_python_are_found(clone):
    words = '. ./setup.sh >/dev/null; . ./setup.sh; command -v couloir; command -v python; echo "$PYTHON"; echo "$PATH"'
    couloir, python, variable, path = bash(clone, words).stdout.split()
    bin = str(clone / ".venv" / "bin")
    assert (couloir, python, variable) == (f"{bin}/couloir", f"{bin}/python", f"{bin}/python")
    assert path.split(":").count(bin) == 1
    assert (clone / "made").read_text() == "made\n"  # once

    elsewhere = bash(clone, ". ./setup.sh >/dev/null; command -v couloir", COULOIR_VENV="env of mine").stdout.strip()
    assert elsewhere == str(clone / "env of mine" / "bin" / "couloir")


def test_without_a_python_it_is_one_line(clone):
    done = bash(clone, "./setup.sh", expect=2, COULOIR_PYTHON="no-such-python")
    assert done.stderr.startswith("error: Python 3.10 to 3.13 with venv is needed") and done.stderr.count("\n") == 1
