"""The README's commands as a newcomer runs them: a fresh clone of what is committed, an empty home, nothing installed.

    python benchmarks/two_commands.py "./demo.sh" "./demo.sh --quick" "./test.sh" "./test.sh --fast" --write

Wall time with all set-up, the memory of the largest process, and what came out: error rates of the demo, pytest's count
of the tests. Rows of commands that are not named here are kept from the newest result.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from result_file import RESULTS, write_result

ROOT = Path(__file__).resolve().parents[1]
LIMITS_S = {"./demo.sh": 1200, "./demo.sh --quick": 180, "./test.sh": 720, "./test.sh --fast": 90}
INHERITED = ("PYTHONPATH", "VIRTUAL_ENV")


def echoed(command: str | list[str], **options: Any) -> list[str]:
    """The lines that a command prints, shown as they come. Raises `SystemExit` where it fails."""
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return lines


def measure(command: str, keep: Path | None) -> dict[str, Any]:
    """Run one command in its own clone, in this process's only child."""
    with contextlib.ExitStack() as stack:
        if keep is None:
            scratch = stack.enter_context(tempfile.TemporaryDirectory())
        else:
            keep.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.mkdtemp(dir=keep, prefix="clone-")
        clone, home = Path(scratch, "project"), Path(scratch, "home")
        subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(clone)], check=True)
        home.mkdir()
        env = {name: value for name, value in os.environ.items() if name not in INHERITED}
        env |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
        begin = time.perf_counter()
        text = "".join(echoed(command, shell=True, cwd=clone, env=env))
        wall = time.perf_counter() - begin
        rates = {
            f"{report.parents[1].name}, {report.parent.name}": json.loads(report.read_text())["overall"]["rate"]
            for report in sorted(clone.glob("demo/exp*/*/*/report.json"))
        }
    # A limit of the tests is of the tests: setting up depends on the net.
    tests = re.findall(r"\d+ passed.* in ([\d.]+)s", text)
    return {
        "wall_s": round(wall),
        "tests_s": round(float(tests[-1])) if tests else None,
        "largest_process_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        "per": {name: round(rate, 2) for name, rate in rates.items()},
        "tests": re.findall(r"\d+ passed[^=\n]*", text)[-1] if tests else "",
        "limit_s": LIMITS_S.get(command),
        "commit": subprocess.check_output(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], text=True).strip(),
        "date": str(datetime.date.today()),
    }


def main() -> None:
    """Measure, print; with --write keep the rows as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commands", nargs="+", help="in quotation marks")
    parser.add_argument("--write", action="store_true", help="write results/two_commands-DATE.json")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave each clone in FOLDER")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.commands[0], args.keep)))
        return
    earlier = sorted(RESULTS.glob("two_commands-*.json"))
    rows = json.loads(earlier[-1].read_text())["rows"] if earlier else {}
    for command in args.commands:
        # A process each, for the memory is that of the largest child so far.
        keep = ["--keep", str(args.keep)] if args.keep else []
        rows[command] = json.loads(echoed([sys.executable, __file__, command, "--one", *keep])[-1])
        if args.write:
            write_result("two_commands", {"rows": rows})


if __name__ == "__main__":
    main()
