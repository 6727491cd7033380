"""How long one waits: for a program's help, for ``import couloir``, for the first result of inference without torch.

    python benchmarks/startup.py --exp-dir demo/exp/festvox-ru [--rounds 7] [--write]

Every time is a separate process, from its start to its end; the median of several counts, and they take turns. The
model is exported from the run for the occasion, the 10 s of speech are of tests/data.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from result_file import write_result

from couloir.audio import SAMPLE_RATE, load_audio

ROOT = Path(__file__).resolve().parents[1]
SPEECH_S = 10
LIMITS_S = {
    "Python alone": None,
    "train.py --help": 0.3,
    "couloir --help": 0.3,
    "import couloir": 0.1,
    "inference.py, a recording of 10 s": 1.5,
}


def run(*words: object) -> None:
    """A program of the repository. Raises `SystemExit` with what it said where it fails."""
    # Compiled files are what a person has from the second start on.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env |= {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: {done.stderr.strip()}")


def ten_seconds(path: Path) -> Path:
    """A wav of real speech that lasts 10 s."""
    speech = np.concatenate([load_audio(source) for source in sorted((ROOT / "tests" / "data").glob("*.flac"))])
    soundfile.write(path, np.resize(speech, SPEECH_S * SAMPLE_RATE), SAMPLE_RATE)
    return path


def measure(exp_dir: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of every start."""
    with tempfile.TemporaryDirectory() as scratch:
        recording = ten_seconds(Path(scratch, "speech.wav"))
        run("zipformer_crctc/export_onnx.py", "--exp-dir", exp_dir.absolute(), "--out-dir", scratch)
        commands: dict[str, tuple[object, ...]] = {
            "Python alone": ("-c", "pass"),
            "train.py --help": ("zipformer_crctc/train.py", "--help"),
            "couloir --help": ("couloir/cli.py", "--help"),
            "import couloir": ("-c", "import couloir"),
            "inference.py, a recording of 10 s": (
                "inference/inference.py", recording, "--model-path", Path(scratch, "model.onnx")
            ),
        }  # fmt: skip
        times: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(rounds + 1):
            for name, words in commands.items():
                begin = time.perf_counter()
                run(*words)
                if turn:  # the first turn compiles, and reads files from the disk
                    times[name].append(time.perf_counter() - begin)
    return times


def main() -> None:
    """Print the table; with --write keep it as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exp-dir", type=Path, required=True, help="run directory of a CTC model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="write results/startup-DATE.json")
    args = parser.parse_args()
    rows = {
        name: {
            "median_s": round(statistics.median(times), 3),
            "best_s": round(min(times), 3),
            "limit_s": LIMITS_S[name],
        }
        for name, times in measure(args.exp_dir, args.rounds).items()
    }
    for name, row in rows.items():
        limit = f"at most {row['limit_s']:g} s" if row["limit_s"] else ""
        print(f"{name:36}{row['median_s']:7.2f} s  (best {row['best_s']:.2f} s)  {limit}")
    if args.write:
        write_result("startup", {"run": args.exp_dir.name, "rounds": args.rounds, "rows": rows})


if __name__ == "__main__":
    main()
