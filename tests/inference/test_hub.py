"""Fetching from a hub that stands on this machine: what was asked for and nothing else, at any revision; its cache."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading

import pytest

COMMITS = {"main": "a" * 40, "v2": "b" * 40}
FILES = {
    COMMITS["main"]: {
        "m.pth": b"one",
        "README.md": b"r",
        "run.py": b"r",
        "tokens.txt": b"t",
        "m.int8.onnx": b"o",
        "m.int8.onnx.data": b"d",
        "m.fp16.onnx": b"h",
        "m.onnx": b"f",
        "m.onnx.data": b"w",
        "decoder.onnx": b"p",
        "decoder.fp16.onnx": b"q",
    },
    COMMITS["v2"]: {"m.pth": b"two", "tokens.txt": b"t"},
}
FETCH = """
import sys
from couloir.errors import UserError
from couloir.inference.hub import fetch_model
for argument in sys.argv[1:]:
    repo, _, revision = argument.partition("@")
    revision, _, suffix = revision.partition("+")
    try:
        folder = fetch_model(repo, revision or None, suffix or None)
        print(folder.name[:1], *(f"{path.name}={path.read_text()}" for path in sorted(folder.iterdir())))
    except UserError as error:
        print("error:", error)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """The answers of the hub that its client asks for."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        data, headers = self.answer(self.path.split("?")[0].strip("/").split("/"))
        self.send_response(404 if "X-Error-Code" in headers else 200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def answer(self, parts):
        if parts[:2] == ["someone", "tiny"]:
            commit, name = COMMITS.get(parts[3], parts[3]), parts[4]
            self.server.fetched.append(name)
            data = FILES[commit][name]
            return data, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if parts[:4] != ["api", "models", "someone", "tiny"]:
            return b"{}", {"X-Error-Code": "RepoNotFound"}
        commit = COMMITS.get(parts[5], parts[5])
        if commit not in FILES:
            return b"{}", {"X-Error-Code": "RevisionNotFound"}
        files = FILES[commit]
        if parts[4] == "tree":
            rows = [
                {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for n, d in files.items()
            ]
            return json.dumps(rows).encode(), {}
        facts = {"id": "someone/tiny", "sha": commit, "siblings": [{"rfilename": name} for name in files]}
        return json.dumps(facts).encode(), {}


@pytest.fixture
def hub(tmp_path):
    """A server and a function that fetches from it in a process of its own, with a cache of its own."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.fetched = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    quiet = {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
    }

    def fetch(*arguments, **environment):
        command = [sys.executable, "-c", FETCH, *arguments]
        env = os.environ | own | quiet | environment
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()

    yield server, fetch
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_any_revision_is_fetched_once_and_comes_from_the_cache_afterwards(hub, tmp_path):
    server, fetch = hub
    wanted = ["someone/tiny", "someone/tiny@v2", "someone/tiny@" + COMMITS["v2"], "someone/tiny@v3", "someone/none"]
    first = fetch(*wanted)
    assert first[:3] == ["a m.pth=one tokens.txt=t", "b m.pth=two tokens.txt=t", "b m.pth=two tokens.txt=t"]
    assert "no revision someone/tiny@v3" in first[3] and "no model someone/none" in first[4]
    assert not {"README.md", "run.py", "m.int8.onnx"} & set(server.fetched)
    offline = fetch(*wanted, HF_HUB_OFFLINE="1")
    assert offline[:3] == first[:3] and all("cache" in line for line in offline[3:])
    server.fetched.clear()
    assert fetch("someone/tiny@main+.onnx", HF_HOME=str(tmp_path / "new")) == [
        "a decoder.onnx=p m.onnx=f m.onnx.data=w tokens.txt=t"
    ]
    assert not {"m.int8.onnx", "m.int8.onnx.data", "m.fp16.onnx", "decoder.fp16.onnx"} & set(server.fetched)
    with_int8 = "a decoder.onnx=p m.int8.onnx=o m.int8.onnx.data=d m.pth=one tokens.txt=t"
    assert fetch("someone/tiny@main+.int8.onnx") == [with_int8]
    assert not {"m.fp16.onnx", "decoder.fp16.onnx"} & set(server.fetched)
    server.shutdown()
    server.server_close()  # a network that is down is no reason to refuse what is in the cache
    assert fetch(*wanted[:3]) == [with_int8, *first[1:3]]
    assert not {"README.md", "run.py"} & set(server.fetched)
