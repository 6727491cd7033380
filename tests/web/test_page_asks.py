"""A page whose address names a model of another machine says which, and fetches nothing before the person agrees."""

import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from chromium import find_chromium
from pages import IDLE, shown

from couloir import web

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find_chromium(), reason="needs Chromium")]
HIDDEN = "document.querySelector('#elsewhere')?.hidden"
COMPLAINED = f"document.querySelector('#error')?.textContent && {IDLE}"


@contextmanager
def serving(handler):
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture
def elsewhere():
    """Another machine, as browsers count: its port, and what it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(404)
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()

        def log_message(self, *_):
            pass

    with serving(Handler) as port:
        yield port, asked


@pytest.fixture
def own():
    """The page on any file server, one address of which leads elsewhere."""
    target = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/leads-away/"):
                self.send_response(302)
                self.send_header("Location", f"http://localhost:{target[0]}/m/audio-model.onnx")
                return self.end_headers()
            return super().do_GET()

        def log_message(self, *_):
            pass

    with serving(partial(Handler, directory=web.PAGE)) as port:
        yield port, target


def test_another_machine_is_named_and_asked_for_first(chromium, own, elsewhere):
    port, asked = elsewhere
    for button, paths in [("own", []), ("load", ["/m/audio-model.int8.onnx", "/m/audio-model.onnx"])]:
        chromium.open(f"http://127.0.0.1:{own[0]}/?model=http://localhost:{port}/m/")
        chromium.wait(f"{HIDDEN} === false")
        assert shown(chromium, "#elsewhere-host") == f"localhost:{port}"
        assert asked == [] and chromium.run("document.activeElement.id") == "elsewhere-own"
        chromium.run(f"document.querySelector('#elsewhere-{button}').click()")
        chromium.wait(COMPLAINED)
        assert chromium.run(HIDDEN) and asked == paths


def test_an_address_of_ones_own_that_leads_away_is_not_followed(chromium, own, elsewhere):
    own[1].append(elsewhere[0])
    chromium.open(f"http://127.0.0.1:{own[0]}/?model=leads-away/")
    chromium.wait(COMPLAINED)
    assert elsewhere[1] == [] and chromium.run(HIDDEN)
