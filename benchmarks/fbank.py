"""Log-mel filterbanks: ours against lhotse's and Kaldi's (kaldi-native-fbank), on one core, in one run.

    python benchmarks/fbank.py [--utterances 64] [--rounds 9] [--write]

The utterances are 2 to 15 s of real speech, spliced from tests/data. The programs take turns, so that what else
the machine does falls on all alike; the median of the rounds is given as seconds of speech per second.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import kaldi_native_fbank
import lhotse
import numpy as np
import torch
from result_file import write_result

from couloir.audio import SAMPLE_RATE, load_audio
from couloir.features.fbank import ExportableFbank, Fbank
from couloir.features.kaldi import fbank_numpy

ROOT = Path(__file__).resolve().parents[1]
BATCH = 8


def utterances(number: int) -> list[np.ndarray]:
    """Speech of random lengths, sorted by length as bucketing does it."""
    speech = np.concatenate([load_audio(path) for path in sorted((ROOT / "tests/data").glob("ru_*.flac"))] * 3)
    draw = random.Random(0)
    lengths = sorted(draw.randrange(2 * SAMPLE_RATE, 15 * SAMPLE_RATE) for _ in range(number))
    return [speech[(start := draw.randrange(len(speech) - length)) : start + length] for length in lengths]


def kaldi(wave: np.ndarray) -> np.ndarray:
    """kaldi-native-fbank with the same settings."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither, options.frame_opts.snip_edges = 0, False
    options.mel_opts.num_bins, options.mel_opts.high_freq = 80, -400
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(SAMPLE_RATE, wave)
    fbank.input_finished()
    return np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)])


def contestants(waves: list[np.ndarray]) -> dict[str, Callable[[], object]]:
    """Name -> a function that extracts all utterances."""
    ours, exportable, theirs = Fbank(), ExportableFbank(), lhotse.Fbank()
    batches = []
    for start in range(0, len(waves), BATCH):
        part = [torch.from_numpy(wave) for wave in waves[start : start + BATCH]]
        lens = torch.tensor([len(wave) for wave in part])
        batches.append((torch.nn.utils.rnn.pad_sequence(part, batch_first=True), lens))
    singles = [(torch.from_numpy(wave)[None], torch.tensor([len(wave)])) for wave in waves]
    return {
        "couloir, batched": lambda: [ours(*batch) for batch in batches],
        "couloir, one by one": lambda: [ours(*single) for single in singles],
        "couloir, exportable": lambda: [exportable(*batch) for batch in batches],
        "couloir, numpy": lambda: [fbank_numpy(wave) for wave in waves],
        "lhotse.Fbank, batched": lambda: [theirs.extract_batch(w, SAMPLE_RATE, lengths=n) for w, n in batches],
        "lhotse.Fbank, one by one": lambda: [theirs.extract(wave, SAMPLE_RATE) for wave in waves],
        "kaldi-native-fbank": lambda: [kaldi(wave) for wave in waves],
    }


def measure(waves: list[np.ndarray], rounds: int) -> dict[str, float]:
    """Name -> median seconds of speech per second."""
    programs = contestants(waves)
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - start)
    speech = sum(map(len, waves)) / SAMPLE_RATE
    return {name: speech / statistics.median(times) for name, times in seconds.items()}


def greatest_difference(waves: list[np.ndarray]) -> float:
    """Largest difference from Kaldi over a few utterances."""
    fbank = Fbank()
    pairs = [(fbank(torch.from_numpy(w)[None], torch.tensor([len(w)]))[0][0].numpy(), kaldi(w)) for w in waves[:8]]
    return max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)


def main() -> None:
    """Print the measurement; with --write keep it as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", action="store_true", help="write results/fbank-DATE.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    waves = utterances(args.utterances)
    speeds = measure(waves, args.rounds)
    ours = speeds["couloir, batched"]
    for name, speed in speeds.items():
        print(f"{name:26}{speed:8.0f} x real time   couloir is {ours / speed:5.2f} times as fast")
    difference = greatest_difference(waves)
    print(f"greatest difference from kaldi-native-fbank: {difference:.1e}")
    if args.write:
        speech = round(sum(map(len, waves)) / SAMPLE_RATE, 1)
        values = {"what": "seconds of speech per second, median", "speech_s": speech, "rounds": args.rounds}
        values |= {name: round(speed) for name, speed in speeds.items()}
        values |= {
            "ratio to lhotse.Fbank, batched": round(ours / speeds["lhotse.Fbank, batched"], 2),
            "ratio to lhotse.Fbank, one by one": round(ours / speeds["lhotse.Fbank, one by one"], 2),
            "ratio to kaldi-native-fbank": round(ours / speeds["kaldi-native-fbank"], 2),
            "greatest difference from kaldi-native-fbank": difference,
        }
        write_result("fbank", values)


if __name__ == "__main__":
    main()
