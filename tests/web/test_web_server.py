"""The page's server gives out the page, the runtime and the model, and nothing else; its errors are one line."""

import base64
import hashlib
import http.client
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from couloir import web
from couloir.errors import UserError

FILES = ("index.html", "style.css", "package.json", "README.md", "js/main.js", "js/notes.md", "vendor/ort.js")


@pytest.fixture
def page(tmp_path):
    """A small page with a runtime, and beside it a run directory with a model and other things."""
    folder = tmp_path / "web"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")
    runtime = {"package": "runtime", "version": "1.2.3", "files": {"ort.js": "dist/ort.min.mjs"}}
    (folder / "package.json").write_text(json.dumps({"runtime": runtime}), encoding="utf-8")
    (folder / "vendor" / "version.txt").write_text("runtime 1.2.3\n", encoding="utf-8")
    run = tmp_path / "run"
    (run / "lang").mkdir(parents=True)
    for name in ("audio-model-a.onnx", "audio-model-a.int8.onnx", "model.onnx", "config.yaml", "lang/tokens.txt"):
        (run / name).write_text(name, encoding="utf-8")
    return folder


@pytest.fixture
def get(page):
    """Ask the server of `page` for a path."""
    with web.make_server(web.routes_of(page, page.parent / "run")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()

        def ask(path, method="GET", host="localhost"):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            connection.request(method, path, headers={"Host": host})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

        yield ask
        server.shutdown()
        thread.join()


def test_serves_the_page_the_runtime_and_the_model_with_their_types(get):
    types = {
        "/": ("index.html", "text/html"),
        "/style.css?x=1": ("style.css", "text/css"),
        "/js/main.js": ("js/main.js", "text/javascript"),
        "/vendor/ort.js": ("vendor/ort.js", "text/javascript"),
        "/model/audio-model.int8.onnx": ("audio-model-a.int8.onnx", "application/octet-stream"),
        "/model/tokens.txt": ("lang/tokens.txt", "text/plain"),
    }
    for path, (content, kind) in types.items():
        status, headers, body = get(path)
        assert (status, body.decode()) == (200, content)
        assert headers["Content-Type"].startswith(kind)
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    status, headers, body = get("/js/main.js", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "10", b"")


def test_serves_nothing_else(get):
    paths = ["/README.md", "/package.json", "/js/notes.md", "/js/", "/js", "/model/model.onnx", "/model/config.yaml"]
    paths += [
        "/../run/config.yaml",
        "/js/../../run/config.yaml",
        "/js/%2e%2e/package.json",
        "//etc/passwd",
        "/%2fetc/passwd",
    ]
    assert {path: get(path)[0] for path in paths} == dict.fromkeys(paths, 404)
    assert get("/", "POST")[0] == 501
    # A name that someone else pointed at this machine.
    assert get("/model/tokens.txt", host="elsewhere.example:8000")[0] == 403
    assert get("/", host="127.0.0.1:9000")[0] == 200


@pytest.mark.parametrize(("path", "host"), [("/", "["), ("/", "[::1"), ("http://[x/", "localhost")])
def test_an_address_that_is_none_is_refused_and_nothing_is_printed(get, capfd, path, host):
    assert get(path, host=host)[0] == 400
    assert capfd.readouterr() == ("", "")


def test_a_models_files_are_found_or_their_making_is_told(page, tmp_path):
    run = tmp_path / "run"
    assert [path.name for path in web.model_files(run)] == ["audio-model-a.int8.onnx", "tokens.txt"]
    assert web.model_files(run / "audio-model-a.onnx")[0].name == "audio-model-a.onnx"
    assert "/model/audio-model.onnx" in web.routes_of(page, run / "audio-model-a.onnx")
    (tmp_path / "other" / "deep").mkdir(parents=True)
    (tmp_path / "other" / "deep" / "audio-model.onnx").touch()
    for source, message in [
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "other", "--with-frontend True"),
        (tmp_path / "other" / "deep", "tokens.txt"),
        (run / "config.yaml", ".onnx"),
    ]:
        with pytest.raises(UserError, match=message):
            web.model_files(source)


def test_the_runtime_is_the_pinned_one_or_none(page, tmp_path):
    package = tmp_path / "runtime-1.2.3.tgz"
    with tarfile.open(package, "w:gz") as archive:
        for name in ("package/dist/ort.min.mjs", "package/../../outside"):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"ort"))
    pinned = json.loads((page / "package.json").read_text())
    digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    pinned["runtime"]["integrity"] = f"sha512-{digest}"
    (page / "package.json").write_text(json.dumps(pinned))
    (page / "vendor" / "version.txt").write_text("runtime 1.2.2\n")
    with pytest.raises(UserError, match="--fetch-runtime"):
        web.routes_of(page)
    web.fetch_runtime(page, package)
    assert web.has_runtime(page) and (page / "vendor" / "ort.js").read_text() == "ort"
    assert sorted(path.name for path in page.parent.iterdir()) == ["run", "runtime-1.2.3.tgz", "web"]
    package.write_bytes(package.read_bytes() + b"more")
    for wrong, message in ((package, "checksum"), (tmp_path / "none.tgz", "cannot be read")):
        with pytest.raises(UserError, match=message):
            web.fetch_runtime(page, wrong)


def test_a_runtime_that_cannot_be_kept_is_one_line(page, tmp_path, monkeypatch):
    package = tmp_path / "runtime.tgz"
    with tarfile.open(package, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("package/dist/ort.min.mjs"))
    pinned = json.loads((page / "package.json").read_text())["runtime"]
    digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    pinned["integrity"] = f"sha512-{digest}"
    (page / "package.json").write_text(json.dumps({"runtime": pinned}))
    # A package that pip installed keeps it in the person's cache, here a file.
    monkeypatch.setattr(web, "_INSTALLED", page)
    (tmp_path / "cache").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="cannot be written"):
        web.fetch_runtime(page, package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert web.fetch_runtime(page, package) == tmp_path / "other" / "couloir" / "web-runtime"
    assert web.has_runtime(page) and web.routes_of(page)["/vendor/ort.js"].is_file()


def test_without_npm_the_way_around_is_told(page, monkeypatch):
    (page / "package.json").write_text('{"runtime": {"package": "runtime", "version": "1", "integrity": "sha512-x"}}')
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="npm pack runtime@1 on a machine that has it"):
        web.fetch_runtime(page)


def test_the_program_teaches_and_complains_in_one_line(page, monkeypatch, capsys):
    monkeypatch.setattr(web, "PAGE", page)
    for arguments in (["--model", "nowhere"], ["--port", "99999999"]):
        assert web.main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
    code = "import sys; from couloir import web; sys.exit('torch' in sys.modules)"
    root = Path(web.__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": ""}).returncode == 0


def test_the_pinned_package_is_named_without_an_address():
    text = (web.PAGE / "package.json").read_text(encoding="utf-8")
    runtime = json.loads(text)["runtime"]
    assert len(base64.b64decode(runtime["integrity"].removeprefix("sha512-"))) == 64
    assert "://" not in text
