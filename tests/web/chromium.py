"""Headless Chromium by its DevTools protocol over a pipe: no driver and no package is needed."""

import fcntl
import json
import os
import shutil
import subprocess
import time

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
    "--remote-debugging-pipe",
]


def find_chromium():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Chromium:
    """A browser with one page.

    Args:
        folder: empty folder for its profile and downloads. flags: more of its flags.
        has_microphone: one that beeps every second, which pages may use once they are allowed to.
    """

    def __init__(self, folder, *flags, has_microphone=True):
        flags += ("--use-fake-device-for-media-stream",) * has_microphone
        self.downloads = folder / "downloads"
        self.downloads.mkdir(parents=True)
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # The protocol's pipe is file descriptors 3 and 4; from 10 on they are in nobody's way.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]
        command = ["bash", "-c", 'exec "$@" 3<&{} 4>&{}'.format(*ends), "bash", find_chromium(), *FLAGS]
        self._process = subprocess.Popen(
            [*command, *flags, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_browser, from_browser, *ends):
            os.close(end)
        self._buffer, self._sent, self._session = b"", 0, None
        self.events = []
        target = self.call("Target.getTargets")["targetInfos"][0]["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def call(self, method, **parameters):
        """A command of the protocol and its result."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._sent:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def _receive(self):
        while b"\0" not in self._buffer:
            part = os.read(self._in, 1 << 20)
            assert part, "Chromium ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, address):
        self.call("Page.navigate", url=address)

    def run(self, script):
        """The value of an expression (a promise is awaited)."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition, seconds=60):
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"{condition} did not come true: {self.complaints()}"
            time.sleep(0.05)

    def press(self, key, shift=False):
        """A key, as a person presses it."""
        code = {"Tab": 9, "Enter": 13, " ": 32}.get(key, 0)
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        about = {"key": key, "code": "Space" if key == " " else key, "modifiers": 8 * shift}
        self.call("Input.dispatchKeyEvent", type="keyDown", windowsVirtualKeyCode=code, text=text, **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", windowsVirtualKeyCode=code, **about)

    def choose(self, selector, *paths):
        """Give files to a file input."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")["result"]
        self.call("DOM.setFileInputFiles", files=[str(path) for path in paths], objectId=found["objectId"])

    def allow(self, what, address, setting="granted"):
        """Answer in advance what the browser would ask the person."""
        self.call("Browser.setPermission", permission={"name": what}, setting=setting, origin=address.rstrip("/"))

    def downloaded(self, name, seconds=20):
        path, end = self.downloads / name, time.monotonic() + seconds
        while not path.is_file():
            assert time.monotonic() < end, f"{name} was not downloaded"
            time.sleep(0.05)
        return path

    def complaints(self):
        """What the console says of errors and warnings."""
        entries = [
            event["params"] for event in self.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")
        ]
        return [entry.get("entry", {}).get("text") or str(entry.get("exceptionDetails")) for entry in entries]

    def close(self):
        os.close(self._out)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
