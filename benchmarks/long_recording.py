"""Long recordings: cut into windows beside uncut, and each utterance by itself: PER, speed and peak memory.

    python benchmarks/long_recording.py --model demo/exp/festvox-ru --shar demo/festvox-ru/shar [--write]

Utterances follow each other in one file: those of the test set first, then dev's, then training's, for an hour needs
them; PER is comparable along a row, not down a column. Tokens belong to the utterance within which they lie. Each
measurement has its own process, which reads the file. Uncut, memory grows with the square of the length.

Windows give other text than the uncut recording, for the model sees less around each frame. If the seams did it, the
edits would lie near them: they are counted within 2 s of a seam, beside what chance would put there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from bisect import bisect_right
from difflib import SequenceMatcher
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
from result_file import write_result

from couloir.audio import SAMPLE_RATE
from couloir.inference.recognizer import Recognizer
from couloir.inference.windows import cut

SETS = ("test-heldout", "dev", "train")
MODES = ("uncut", "windows")
Timed = list[tuple[str, float]]
"""Tokens with their middles in s."""
WINDOW_S, OVERLAP_S, NEAR_S = 30.0, 4.0, 2.0


def transcribe(model: str, file: Path, mode: str, threads: int) -> dict[str, Any]:
    """In this process: timed tokens, seconds and the peak memory in MB."""
    import torch

    torch.set_num_threads(threads)
    window_s = WINDOW_S if mode == "windows" else OVERLAP_S * 2 + soundfile.info(file).duration
    recognizer = Recognizer.from_pretrained(model, window_s=window_s, overlap_s=OVERLAP_S)
    recognizer.transcribe([np.zeros(SAMPLE_RATE, np.float32)])
    before, start = _peak(), time.perf_counter()
    found = recognizer.transcribe([file])[0]
    return {
        "seconds": time.perf_counter() - start,
        "peak_mb": round(_peak()),
        "start_mb": round(before),
        "tokens": [(token.symbol, (token.start + token.end) / 2) for token in found.tokens],
    }


def _peak() -> float:
    # Not ru_maxrss, which begins with that of the parent.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def by_utterance(tokens: Timed, waves: list[np.ndarray]) -> list[str]:
    """The text within each utterance of the long recording."""
    starts = np.cumsum([0.0, *(len(wave) / SAMPLE_RATE for wave in waves)])[:-1].tolist()
    texts = [""] * len(waves)
    for text, middle in tokens:
        texts[max(bisect_right(starts, middle) - 1, 0)] += text
    return texts


def edits_near_seams(uncut: Timed, windows: Timed, seconds: float) -> dict[str, float]:
    """Edits between two texts of a recording, how many lie within `NEAR_S` of a seam, and how many would by chance."""
    pieces = cut(round(seconds * SAMPLE_RATE), int(WINDOW_S * SAMPLE_RATE), int(OVERLAP_S * SAMPLE_RATE))
    seams = np.array([(left.stop + right.start) / 2 / SAMPLE_RATE for left, right in itertools.pairwise(pieces)])
    matcher = SequenceMatcher(a=[text for text, _ in uncut], b=[text for text, _ in windows], autojunk=False)
    times = [
        uncut[min(i, len(uncut) - 1)][1]
        for tag, i, j, k, n in matcher.get_opcodes() for _ in range(max(j - i, n - k)) if tag != "equal"
    ]  # fmt: skip
    near = sum(bool((np.abs(seams - time) < NEAR_S).any()) for time in times)
    return {"edits": len(times), "near": near, "by_chance": round(len(times) * len(seams) * 2 * NEAR_S / seconds, 1)}


def measure(args: argparse.Namespace, minutes: float, data: list[tuple[np.ndarray, list[str]]]) -> dict[str, Any]:
    """The row of a recording of that many minutes."""
    from export_accuracy import error_rate

    total, kept = 0, []
    for wave, reference in data:
        if total >= minutes * 60 * SAMPLE_RATE:
            break
        total += len(wave)
        kept.append((wave, reference))
    waves, references = [wave for wave, _ in kept], [reference for _, reference in kept]
    alone = [t.text for t in Recognizer.from_pretrained(args.model).transcribe(waves)]
    row: dict[str, Any] = {"minutes": round(total / SAMPLE_RATE / 60, 1), "utterances": len(waves)}
    row["alone"] = {"per": error_rate(references, alone)}
    texts, timed = {"alone": alone}, {}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "long.wav"
        soundfile.write(file, np.concatenate(waves), SAMPLE_RATE, subtype="PCM_16")
        for mode in MODES:
            if mode == "uncut" and minutes > args.longest_uncut:
                continue
            command = [sys.executable, __file__, "--model", args.model, "--file", str(file), "--mode", mode]
            command += ["--threads", str(args.threads)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            timed[mode], texts[mode] = found["tokens"], by_utterance(found["tokens"], waves)
            row[mode] = {
                "per": error_rate(references, texts[mode]),
                "rtf": round(found["seconds"] / total * SAMPLE_RATE, 5),
                "peak_mb": found["peak_mb"],
                "start_mb": found["start_mb"],
            }
    if "uncut" in timed:
        row["uncut"]["tokens"] = len(timed["uncut"])
        row["windows"] |= edits_near_seams(timed["uncut"], timed["windows"], total / SAMPLE_RATE)
    return row


def main() -> None:
    """Print a row for each length; with --write keep them as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="run directory or CTC model")
    parser.add_argument("--shar", type=Path, help="folder of the sets")
    parser.add_argument("--minutes", type=float, nargs="+", default=(1.0, 5.0, 10.0, 60.0))
    parser.add_argument("--longest-uncut", type=float, default=10.0, help="minutes; above it only windows")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write results/long_recording-RUN-DATE.json")
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.mode:
        print(json.dumps(transcribe(args.model, args.file, args.mode, args.threads)))
        return
    if args.shar is None:
        parser.error("give --shar")
    from export_accuracy import utterances

    data = [pair for name in SETS for pair in zip(*utterances(args.shar / name))]
    rows = []
    for minutes in args.minutes:
        rows.append(measure(args, minutes, data))
        print(json.dumps(rows[-1]))
    if args.write:
        run = Path(args.model).name
        write_result(f"long_recording-{run}", {"run": run, "threads": args.threads, "rows": rows})


if __name__ == "__main__":
    main()
