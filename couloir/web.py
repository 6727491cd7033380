"""Serve the page that turns speech into IPA in the browser.

    python -m couloir.web --fetch-runtime          # once: ONNX Runtime for browsers, through npm
    python -m couloir.web --model exp/tiny --open

The model is one that a recipe's export_onnx.py has written by --with-frontend True.
Nothing is computed here: any file server will do for web/, with the runtime in web/vendor/ and in web/model/ the
audio-model.int8.onnx and tokens.txt. Only the page, the runtime and those two files are served, to this machine alone.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from couloir.config import TeachingParser
from couloir.errors import UserError, must_be, one_line_errors
from couloir.files import atomic_write
from couloir.inference.tokenizers import tokens_beside

_INSTALLED = Path(__file__).resolve().with_name("web_page")
"""What the package carries of web/ (setup.py)."""
PAGE = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1] / "web"
Routes = dict[str, Path]
_PIECE = 1 << 20
MODEL_NAMES = ("audio-model*.int8.onnx", "audio-model*.onnx")
"""What a model with its own front end is called, the preferred first."""
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}
POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src *; "
    "img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'"
)
"""What the page may load and run; index.html says the same, for other servers. Models come from anywhere, if asked."""
_HEADERS = {
    # A page in another one's frame could be clicked by people who believe to click that one.
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    # An isolated page may run the model in several threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def vendor_of(page: Path) -> Path:
    """Where the runtime of a page is: beside it, but in the person's cache for the page of an installed package.

    A package may lie where nobody writes, and pip leaves behind what it did not install.
    """
    if page != _INSTALLED:
        return page / "vendor"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "couloir" / "web-runtime"


def fetch_runtime(page: Path, package: Path | None = None) -> Path:
    """Put the pinned ONNX Runtime where ``page`` looks for it (`vendor_of`), and give that folder.

    Args:
        page: folder of the page. package: a file that ``npm pack`` made; None asks npm for it.

    Raises:
        UserError: there is no npm, it fails, the package is not the pinned one, or the folder cannot be written.
    """
    pinned = _pinned(page)
    with tempfile.TemporaryDirectory() as folder:
        if package is None:
            package = _npm_pack(f"{pinned['package']}@{pinned['version']}", Path(folder))
        try:
            content = package.read_bytes()
        except OSError as error:
            raise UserError(f"package {package} cannot be read: {error.strerror}") from None
        kind, _, expected = pinned["integrity"].partition("-")
        if base64.b64encode(hashlib.new(kind, content).digest()).decode() != expected:
            raise must_be(str(package), f"{pinned['package']} {pinned['version']}", "another file, by its checksum")
        vendor = vendor_of(page)
        try:
            _unpack(package, pinned, vendor)
        except OSError as error:
            raise UserError(f"{vendor} cannot be written: {error.strerror}") from None
    return vendor


def _unpack(package: Path, pinned: dict[str, Any], vendor: Path) -> None:
    with tarfile.open(package) as archive:
        for name, member in pinned["files"].items():
            part = archive.extractfile(f"package/{member}")
            if part is None:
                raise must_be(str(package), f"a package with {member}", "one without")
            with part, atomic_write(vendor / name) as out:
                shutil.copyfileobj(part, out)
    # The last file to be written says which version is there.
    with atomic_write(vendor / "version.txt", "w") as out:
        out.write(f"{pinned['package']} {pinned['version']}\n")


def _pinned(page: Path) -> dict[str, Any]:
    if not (page / "package.json").is_file():
        raise UserError(
            f"the page is not in {page}; run from a checkout of the repository, or install the package again"
        )
    return json.loads((page / "package.json").read_text(encoding="utf-8"))["runtime"]


def _npm_pack(package: str, folder: Path) -> Path:
    by_hand = f"npm pack {package} on a machine that has it, then: python -m couloir.web --fetch-runtime FILE.tgz"
    npm = shutil.which("npm")
    if not npm:
        raise UserError(f"there is no npm to fetch {package} with; run {by_hand}")
    command = [npm, "pack", package, "--ignore-scripts", "--pack-destination", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    found = next(folder.glob("*.tgz"), None)
    if done.returncode or found is None:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        raise UserError(f"npm could not fetch {package} ({(lines or ['no reason given'])[0][:120]}); run {by_hand}")
    return found


def has_runtime(page: Path) -> bool:
    """Whether the pinned ONNX Runtime is where ``page`` looks for it."""
    pinned, version = _pinned(page), vendor_of(page) / "version.txt"
    wanted = f"{pinned['package']} {pinned['version']}\n"
    return version.is_file() and version.read_text(encoding="utf-8") == wanted


def model_files(source: Path) -> tuple[Path, Path]:
    """A model with its front end, and its tokens.txt.

    Args:
        source: the .onnx file, or the folder (such as a run directory) that export_onnx.py wrote it into.

    Raises:
        UserError: one of them is not there.
    """
    if not source.exists():
        raise UserError(f"model {source} does not exist")
    model: Path | None = source
    if source.is_dir():
        model = next((path for name in MODEL_NAMES for path in sorted(source.glob(name))), None)
        if model is None:
            make_one = f"by its recipe's export_onnx.py --exp-dir {source} --with-frontend True"
            raise UserError(f"{source} holds no {MODEL_NAMES[1]}; make one {make_one}")
    assert model is not None
    if source.is_dir():
        _refuse_outside(model, source)
    if model.suffix != ".onnx" or not model.is_file():
        raise must_be("--model", "an .onnx file or the folder of one", source)
    tokens = tokens_beside(model)
    if not tokens.is_file():
        raise UserError(f"there is no tokens.txt beside {model}")
    _refuse_outside(tokens, tokens.parent)
    return model, tokens


def _refuse_outside(file: Path, folder: Path) -> None:
    """What a folder holds does not say what else of the machine is served. Raises `UserError`."""
    if not file.resolve().is_relative_to(folder.resolve()):
        found = f"a link to {file.resolve()}"
        raise must_be(str(file), f"inside {folder}", found, "copy the file, or name it itself with --model")


def routes_of(page: Path, model: Path | None = None) -> Routes:
    """Everything that is served: path in the address -> file.

    Args:
        page: folder of the page. model: as of `model_files`; None for what is in ``page``/model, if anything.

    Raises:
        UserError: the runtime or the model is missing.
    """
    if not has_runtime(page):
        raise UserError("ONNX Runtime for browsers is not there yet; run: python -m couloir.web --fetch-runtime")
    routes = {"/": page / "index.html", "/style.css": page / "style.css"}
    for name, folder in {"js": page / "js", "vendor": vendor_of(page)}.items():
        routes |= {f"/{name}/{path.name}": path for path in folder.iterdir() if path.suffix in _TYPES}
    if model is None and (page / "model").is_dir():
        model = page / "model"
    if model is not None:
        file, tokens = model_files(model)
        name = "audio-model.int8.onnx" if file.name.endswith(".int8.onnx") else "audio-model.onnx"
        routes |= {f"/model/{name}": file, "/model/tokens.txt": tokens}
    return routes


@dataclass(frozen=True)
class Limits:
    """What one visitor may take of the server.

    Attributes:
        request_s: time for a request to be there whole, in s. piece_s: time for `_PIECE` bytes to be taken, in s.
        connections: at a time; a browser opens six.
    """

    request_s: float = 10.0
    piece_s: float = 30.0
    connections: int = 64


class Server(ThreadingHTTPServer):
    """A server on 127.0.0.1 that gives out ``routes`` within its ``limits``."""

    daemon_threads = True

    def __init__(self, routes: Routes, port: int, limits: Limits) -> None:
        # Links are resolved once: what they point to later is not served.
        self.routes = {path: file.resolve() for path, file in routes.items()}
        self.limits = limits
        self.waiting: dict[Any, float] = {}
        self._free = threading.BoundedSemaphore(limits.connections)
        super().__init__(("127.0.0.1", port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for a connection; none, and the end of it, where there are too many."""
        if not self._free.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.setblocking(False)
                request.send(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            return self.shutdown_request(request)
        self.waiting[request] = time.monotonic() + self.limits.request_s
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """As of the base class; then the place is free again."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.waiting.pop(request, None)
            self._free.release()

    def service_actions(self) -> None:
        """End the connections whose request is too long in coming, however steadily it comes."""
        now = time.monotonic()
        for request, deadline in list(self.waiting.items()):
            if deadline < now:
                self.waiting.pop(request, None)
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that ends early is nothing to say."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Answers with the files of its server's routes and nothing else."""

    server: Server

    def setup(self) -> None:
        """As of the base class, with a time for what is sent."""
        super().setup()
        self.connection.settimeout(self.server.limits.piece_s)

    def do_GET(self, body: bool = True) -> None:
        """A file, 404 for what is not served, 400 for no address, 403 for a page elsewhere pointed at this machine."""
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            name = unquote(urlsplit(self.path).path)
        except ValueError:  # a bracket without its other half
            return self.send_error(400)
        if host not in ("127.0.0.1", "localhost"):
            return self.send_error(403)
        source = _opened(self.server.routes.get(name))
        if source is None:
            return self.send_error(404)
        with source:
            self.send_response(200)
            self.send_header("Content-Type", _TYPES[PurePosixPath(name).suffix or ".html"])
            self.send_header("Content-Length", str(os.fstat(source.fileno()).st_size))
            self.end_headers()
            if body:
                with contextlib.suppress(OSError):  # the person left the page, or takes nothing of it any more
                    shutil.copyfileobj(source, self.wfile, _PIECE)

    def end_headers(self) -> None:
        """Every answer, an error too, has the page's rules."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def parse_request(self) -> bool:
        """As of the base class; after it the request is there whole."""
        whole = super().parse_request()
        self.server.waiting.pop(self.request, None)
        return whole

    def do_HEAD(self) -> None:
        """As GET, without the file."""
        self.do_GET(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests."""


def _opened(path: Path | None) -> IO[bytes] | None:
    """A regular file; no link that has taken its place, and no pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        file = os.fdopen(os.open(path or "", flags), "rb")
    except OSError:
        return None
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    return None


def make_server(routes: Routes, port: int = 0, limits: Limits | None = None) -> Server:
    """A server on 127.0.0.1; port 0 takes a free one. Raises `UserError` when the port is taken."""
    try:
        return Server(routes, port, limits or Limits())
    except (OSError, OverflowError):
        raise must_be("--port", "a free port (0 finds one)", port) from None


def make_parser() -> TeachingParser:
    """The program's flags."""
    parser = TeachingParser(prog="python -m couloir.web", description=__doc__)
    parser.add_argument("--model", type=Path, help="audio-model .onnx, or its folder, such as a run directory")
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1 (default: %(default)s; 0: a free one)")
    parser.add_argument("--open", action="store_true", help="open the page in the default browser")
    parser.add_argument(
        "--fetch-runtime",
        nargs="?",
        const="",
        metavar="FILE.tgz",
        help="put ONNX Runtime beside the page, from npm or from the file that `npm pack` made, and stop",
    )
    return parser


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page until interrupted, or fetch the runtime."""
    flags = make_parser().parse_args(arguments)
    if flags.fetch_runtime is not None:
        package = Path(flags.fetch_runtime) if flags.fetch_runtime else None
        print(f"{fetch_runtime(PAGE, package)}: {_pinned(PAGE)['package']} {_pinned(PAGE)['version']}")
        return
    with make_server(routes_of(PAGE, flags.model), flags.port) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"the page is at {address} (Ctrl-C ends)", flush=True)
        if flags.open:
            webbrowser.open(address)
        server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
