"""Speed and memory of CTC inference on a CPU: this project's ONNX backend against sherpa-onnx on the same files.

    python benchmarks/onnx_inference.py --model exp/onnx --data recordings [--suffix .int8.onnx] [--threads 2] [--write]

Both run the same model file with as many threads, from samples to tokens, features included. Each measurement has a
process of its own, so that its peak memory is its own; the two take turns, and the best of several rounds counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from result_file import write_result

from couloir.audio import SAMPLE_RATE, load_audio
from couloir.inference.onnx_backend import OnnxBackend, ctc_file
from couloir.inference.recognizer import Recognizer
from couloir.inference.recordings import find_audio

BATCHES = (1, 16)
Run = Callable[[list[np.ndarray], int], list[str]]


def with_couloir(model: Path, suffix: str, threads: int) -> Run:
    """A function from waves and a batch size to texts."""
    backend = OnnxBackend(model, suffix=suffix, threads=threads)
    return lambda waves, batch: [t.text for t in Recognizer(backend, batch_size=batch).transcribe(waves)]


def with_sherpa(model: Path, suffix: str, threads: int) -> Run:
    """As `with_couloir`."""
    import sherpa_onnx

    recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
        model=str(ctc_file(model, suffix)), tokens=str(model / "tokens.txt"), num_threads=threads
    )

    def run(waves: list[np.ndarray], batch: int) -> list[str]:
        texts: list[str] = []
        for first in range(0, len(waves), batch):
            streams = [recognizer.create_stream() for _ in waves[first : first + batch]]
            for stream, wave in zip(streams, waves[first:]):
                stream.accept_waveform(SAMPLE_RATE, wave)
            recognizer.decode_streams(streams)
            texts += [stream.result.text for stream in streams]
        return texts

    return run


RUNTIMES = {"couloir": with_couloir, "sherpa-onnx": with_sherpa}


def measure(args: argparse.Namespace) -> dict[str, float]:
    """One measurement, in this process: real-time factor and peak memory in MB."""
    waves = [load_audio(file) for file in find_audio([args.data]).files[: args.files]]
    seconds = sum(map(len, waves)) / SAMPLE_RATE
    run = RUNTIMES[args.runtime](args.model, args.suffix, args.threads)
    run(waves[:1], 1)
    start, cpu = time.perf_counter(), time.process_time()
    run(waves, args.batch)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"rtf": wall / seconds, "cpu_rtf": cpu / seconds, "peak_mb": peak}


def in_own_process(args: argparse.Namespace, runtime: str, batch: int) -> dict[str, float]:
    """`measure` elsewhere."""
    command = [sys.executable, __file__, "--runtime", runtime, "--batch", str(batch), "--suffix", args.suffix]
    command += ["--model", str(args.model), "--data", str(args.data)]
    command += ["--threads", str(args.threads), "--files", str(args.files)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    """Print the table; with --write keep it as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder with model.onnx and tokens.txt")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--suffix", default=".onnx")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--files", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write results/onnx_inference-MODEL-DATE.json")
    parser.add_argument("--runtime", choices=tuple(RUNTIMES), help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.runtime:
        print(json.dumps(measure(args)))
        return
    best: dict[str, dict[str, float]] = {}
    for _ in range(args.rounds):
        for batch in BATCHES:
            for runtime in RUNTIMES:
                row = in_own_process(args, runtime, batch)
                kept = best.setdefault(f"{runtime} batch {batch}", row)
                best[f"{runtime} batch {batch}"] = {key: round(min(kept[key], row[key]), 5) for key in row}
    for name, row in best.items():
        print(
            f"{name:22} RTF {row['rtf']:.4f} ({1 / row['rtf']:.0f}x)  CPU {row['cpu_rtf']:.4f}  {row['peak_mb']:.0f} MB"
        )
    if args.write:
        settings = {"model": str(args.model), "suffix": args.suffix, "files": args.files, "threads": args.threads}
        write_result(f"onnx_inference-{args.model.name}{args.suffix.replace('.', '-')}", best | settings)


if __name__ == "__main__":
    main()
