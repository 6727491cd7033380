"""What the page's server does not give away: time, connections, other files; and the rules that it sends."""

import http.client
import os
import re
import socket
import threading
import time

import pytest

from couloir import web
from couloir.errors import UserError

LIMITS = web.Limits(request_s=0.4, piece_s=0.4, connections=3)
SIZE = 32 << 20  # more than a socket's buffers hold
REQUEST = b"GET /a.txt HTTP/1.0\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    return tmp_path


@pytest.fixture
def server(files):
    with web.make_server({"/a.txt": files / "a.txt", "/": files / "a.txt"}, limits=LIMITS) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def opened(server):
    return socket.create_connection(("127.0.0.1", server.server_port), timeout=10)


def answer(connection):
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def ask(server):
    with opened(server) as connection:
        connection.sendall(REQUEST)
        return answer(connection)


@pytest.mark.parametrize(
    "sent", [b"", b"G", b"GET / HTTP/1.0\r\n", b"GET / HTTP/1.0\r\nHost: localhost\r\n", REQUEST[:-1]]
)
def test_who_never_ends_a_request_is_cut_off(server, sent):
    with opened(server) as connection:
        connection.sendall(sent)
        began = time.monotonic()
        assert answer(connection) == b"" and 0.2 < time.monotonic() - began < 5
    assert ask(server).endswith(b"hello")


def test_who_sends_a_letter_at_a_time_is_cut_off(server):
    began = time.monotonic()
    with opened(server) as connection, pytest.raises(ConnectionError):
        for _ in range(400):
            connection.sendall(b"X")
            time.sleep(0.05)  # each letter comes long before a time-out of its own
    assert time.monotonic() - began < 8


def test_who_takes_nothing_of_the_answer_is_cut_off(files):
    with open(files / "large.txt", "wb") as large:
        large.truncate(SIZE)
    with web.make_server({"/a.txt": files / "large.txt"}, limits=LIMITS) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        with opened(server) as connection:
            connection.sendall(REQUEST)
            connection.recv(1, socket.MSG_PEEK)  # it is being answered
            deadline = time.monotonic() + 20
            while server._free._value < LIMITS.connections:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert len(answer(connection)) < SIZE
        server.shutdown()
        thread.join()


def test_connections_are_bounded_and_come_free_again(server):
    held = [opened(server) for _ in range(LIMITS.connections)]
    time.sleep(0.1)
    refused = ask(server)
    assert refused == b"" or refused.startswith(b"HTTP/1.0 503")
    for connection in held:
        connection.close()
    deadline = time.monotonic() + 10
    while not (found := ask(server)).endswith(b"hello"):
        assert time.monotonic() < deadline, found
    threads = threading.active_count()
    for _ in range(3 * LIMITS.connections):
        while not ask(server).endswith(b"hello"):
            assert time.monotonic() < deadline
    assert threading.active_count() <= threads + LIMITS.connections


@pytest.mark.parametrize(
    "request_line",
    [b"\0" * 70000, b"GET", b"GET / HTTP/9.9", b"POST / HTTP/1.0", b"GET /\x1b[2J HTTP/1.0", b"GET //%00 HTTP/1.0"],
)
def test_odd_requests_are_errors_that_nobody_has_to_read(server, request_line, capfd):
    with opened(server) as connection:
        try:
            connection.sendall(request_line + b"\r\nHost: localhost\r\n\r\n")
        except ConnectionError:
            return
        assert not answer(connection).endswith(b"hello")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("path, status", [("/", 200), ("/a.txt", 200), ("/nothing", 404)])
def test_the_rules_of_the_page_are_sent_with_every_answer(server, path, status):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request("GET", path, headers={"Host": "localhost"})
    answer = connection.getresponse()
    assert answer.status == status
    policy = answer.headers["Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["frame-ancestors"] == "'none'" and answer.headers["X-Frame-Options"] == "DENY"
    assert rules["default-src"] == "'self'" and rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert rules["object-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Referrer-Policy"] == "no-referrer"
    page = (web.PAGE / "index.html").read_text(encoding="utf-8")
    assert re.search(r'Security-Policy"\s+content="([^"]+)"', page)[1] == web.POLICY, (
        "for other servers the page says it"
    )


def test_the_page_has_no_code_of_its_own_outside_its_scripts():
    page = (web.PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|javascript:|<script(?![^>]*\bsrc=)|style=", page)


# Links


def test_links_out_of_the_models_folder_are_refused(tmp_path):
    secret = tmp_path / "secret.onnx"
    secret.write_text("secret")
    run = tmp_path / "run"
    (run / "lang").mkdir(parents=True)
    for model, tokens in [("link", "plain"), ("plain", "link"), ("plain", "linked folder")]:
        for path in (run / "audio-model.onnx", run / "lang" / "tokens.txt", run / "tokens.txt"):
            path.unlink(missing_ok=True)
        place = run / "audio-model.onnx"
        place.symlink_to(secret) if model == "link" else place.write_text("model")
        place = run / "tokens.txt"
        place.symlink_to("../secret.onnx") if tokens == "link" else place.write_text("tokens")
        if tokens == "linked folder":
            place.unlink()
            (run / "lang").rmdir()
            (tmp_path / "other").mkdir()
            (tmp_path / "other" / "tokens.txt").symlink_to(secret)
            (run / "lang").symlink_to("../other")
        with pytest.raises(UserError, match="must be inside .*, but is a link to .*secret.onnx"):
            web.model_files(run)


def test_links_inside_the_folder_and_a_named_link_are_followed(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "v1.onnx").write_text("model")
    (run / "audio-model.onnx").symlink_to("v1.onnx")
    (run / "tokens.txt").write_text("tokens")
    (tmp_path / "link").symlink_to("run")
    for source in (run, tmp_path / "link", run / "audio-model.onnx"):
        assert web.model_files(source)[0].resolve() == run / "v1.onnx"


def test_what_takes_a_files_place_later_is_not_served(server, files):
    assert ask(server).endswith(b"hello")
    (files / "secret").write_text("secret")
    (files / "a.txt").unlink()
    (files / "a.txt").symlink_to("secret")
    assert b"404" in ask(server) and b"secret" not in ask(server)
    (files / "a.txt").unlink()
    os.mkfifo(files / "a.txt")
    assert b"404" in ask(server)
    (files / "a.txt").unlink()
    (files / "a.txt").mkdir()
    assert b"404" in ask(server)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_a_model_that_is_no_file_is_one_line(tmp_path, kind):
    path = tmp_path / "model.onnx"
    {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda path: path.symlink_to("/dev/zero")}[kind](path)
    with pytest.raises(UserError):
        web.model_files(path)
