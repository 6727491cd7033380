"""`pip install .` carries the page: a wheel of this tree serves it, without a checkout beside it."""

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

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("couloir", "web", "pyproject.toml", "setup.py", "README.md", "LICENSE")


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
