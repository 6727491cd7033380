"""`pip install .` carries the page and the recipes' programs: a wheel of this tree needs no checkout beside it."""

import http.client
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from couloir import web
from couloir.commands import PROGRAMS, programs_of, recipes

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ("zipformer_crctc", "zipformer_transducer")
ROOMS = ("couloir", "web", *RECIPES, "local", "egs", "prepare.sh", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which pip would have put the package."""
    tree, wheels = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheels")
    left_out = shutil.ignore_patterns("__pycache__", "vendor", "model")
    for room in ROOMS:
        if (ROOT / room).is_dir():
            shutil.copytree(ROOT / room, tree / room, ignore=left_out)
        else:
            shutil.copy(ROOT / room, tree / room)
    # What git leaves out of a clone stays out of the package too.
    (tree / "web" / "vendor").mkdir()
    (tree / "web" / "vendor" / "ort.js").touch()
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", wheels, tree]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No module named" in done.stderr or "invalid command 'bdist_wheel'" in done.stderr:
        pytest.skip("needs setuptools 70 in the environment")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        wheel.extractall(tree / "site")
    return tree / "site"


def program(installed, cache, *flags):
    """`python -m couloir.web` of the installed package, with a folder of its own for what is cached."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "couloir.web", *flags]
    return subprocess.Popen(
        command, cwd=cache, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_the_wheel_holds_the_page_and_no_more(installed):
    page = installed / "couloir" / "web_page"
    packed = {path.relative_to(page).as_posix() for path in page.rglob("*") if path.is_file()}
    scripts = {f"js/{path.name}" for path in (web.PAGE / "js").iterdir()}
    assert packed == {"index.html", "style.css", "package.json"} | scripts
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {"couloir"}


@pytest.mark.slow
def test_the_wheel_holds_the_speech_that_exporters_check_with_its_licence(installed):
    for name in ("check_speech.flac", "LICENSE.festvox-ru"):
        packed, here = (root / "couloir" / "export" / name for root in (installed, ROOT))
        assert packed.read_bytes() == here.read_bytes()


@pytest.mark.slow
def test_an_installed_package_serves_the_page(installed, tmp_path):
    with program(installed, tmp_path) as process:
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 2 and complaint.count("\n") == 1 and "--fetch-runtime" in complaint
    # The runtime goes to the person's cache: the package may lie where nobody writes.
    runtime = tmp_path / "couloir" / "web-runtime"
    runtime.mkdir(parents=True)
    (runtime / "ort.js").write_text("ort")
    pinned = web._pinned(web.PAGE)
    (runtime / "version.txt").write_text(f"{pinned['package']} {pinned['version']}\n")
    with program(installed, tmp_path, "--port", "0") as process:
        port = int(re.search(r"127.0.0.1:(\d+)/", process.stdout.readline())[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        for path, content in [
            ("/", (web.PAGE / "index.html").read_bytes()),
            ("/js/main.js", (web.PAGE / "js" / "main.js").read_bytes()),
            ("/vendor/ort.js", b"ort"),
        ]:
            connection.request("GET", path)
            assert connection.getresponse().read() == content
        process.terminate()


def couloir(installed, folder, *words):
    """The command of the installed package, in a folder that has nothing of this project."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHON": sys.executable}
    command = [sys.executable, "-m", "couloir.cli", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_wheel_holds_the_recipes_programs_and_no_tests(installed):
    packed = installed / "couloir" / "recipe_programs"
    here = {path.relative_to(ROOT) for top in (*RECIPES, "local", "egs") for path in (ROOT / top).rglob("*.py")}
    assert {path.relative_to(packed) for path in packed.rglob("*.py")} == here
    assert (packed / "prepare.sh").read_bytes() == (ROOT / "prepare.sh").read_bytes()
    assert {path.name for path in (packed / "egs").rglob("*.yaml")} >= {"tiny.yaml", "transducer.yaml"}
    assert {path.name for path in packed.iterdir()} == {*RECIPES, "local", "egs", "prepare.sh"}


@pytest.mark.slow
def test_an_installed_package_runs_the_recipes_programs_in_an_empty_folder(installed, tmp_path):
    for command in PROGRAMS:
        for name, recipe in recipes().items():
            first, *others = programs_of(command, recipe)
            for program in (first, *others):
                words = [command, name if program == first else f"{name}/{program}", "--help"]
                there = [sys.executable, str(recipe / f"{program}.py"), "--help"]
                wanted = subprocess.run(there, capture_output=True, text=True).stdout
                done = couloir(installed, tmp_path, *words)
                assert done.returncode == 0 and done.stdout == wanted, words
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_installed_package_prepares_speech_below_the_working_folder_and_trains_on_it(installed, tmp_path):
    speech = tmp_path / "speech"
    speech.mkdir()
    for number, path in enumerate(sorted((ROOT / "tests" / "data").glob("*.flac"))[:3] * 4):
        shutil.copy(path, speech / f"u{number}.flac")
        (speech / f"u{number}.txt").write_text("мама мыла раму")
    flags = "--user-data speech --user-language ru --data-dir out --heldout-utterances 1 --dev-utterances 1 --nj 1"
    flags += " --min-phones-per-second 0 --max-phones-per-second 1000"
    done = couloir(installed, tmp_path, "prepare", *flags.split())
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "lang").is_dir()
    flags = (
        "--preset tiny --manifest-dir out/shar --bpe-model out/lang --exp-dir exp --max-steps 1 --device cpu "
        "--num-workers 0 --max-duration 10"
    )
    done = couloir(installed, tmp_path, "train", "zipformer_crctc", *flags.split())
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "exp" / "config.yaml").is_file()
    assert {path.name for path in tmp_path.iterdir()} <= {"speech", "out", "exp", "download"}
