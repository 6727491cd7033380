"""Real-time factor of CTC inference in PyTorch: samples in, tokens out, features included.

    python benchmarks/torch_inference.py --preset zipa_large --device cuda --amp fp16 --batches 1,16,64,256 --write
    python benchmarks/torch_inference.py --preset tiny --device cpu --batches 1 --modes eager,compile

Modes: `eager`; `compile`, torch.compile with CUDA graphs where there is a GPU; `graph`, one CUDA graph of the eager
kernels, which takes the launches away and leaves the kernels as they are. What lies between `eager` and `graph` is
launch time; `--profile` shows the kernels that remain. Published, on an H200: 70 x real time for ZIPA-large at batch 1;
578 x and 18,100 x (batch 256) for an engine built on TensorRT.

Weights and sound are random: neither the encoder's time nor greedy search's depends on what is said.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from decoding_search import measure
from result_file import save_result, write_result
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from couloir.audio import SAMPLE_RATE
from couloir.decoding.ctc import ctc_greedy_search
from couloir.errors import UserError, one_line_errors
from couloir.features.config import FbankConfig
from couloir.features.fbank import Fbank
from couloir.machine import pick_device
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import PRESETS
from couloir.models.zipformer.model import build_model

AMP = {"none": None, "fp16": torch.float16, "bf16": torch.bfloat16}
Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def forward_of(preset: str, vocab_size: int, device: torch.device, amp: str) -> Forward:
    """From samples (B, N) and lengths (B,) to log-probabilities (B, S, V) and lengths, on the device."""
    torch.manual_seed(0)
    heads = HeadsConfig(use_ctc=True, use_transducer=False, vocab_size=vocab_size)
    model, fbank = build_model(PRESETS[preset], heads).to(device).eval(), Fbank(FbankConfig()).to(device)
    dtype = AMP[amp]

    def forward(audio: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        feats, lens = fbank(audio, lens)
        with torch.autocast(device.type, dtype or torch.float16, enabled=dtype is not None, cache_enabled=False):
            encoded, lens = model.forward_encoder(feats, lens)
        return model.ctc_log_probs(encoded.float()), lens

    return forward


def captured(forward: Forward, audio: Tensor, lens: Tensor) -> Forward:
    """One CUDA graph of the forward pass at this shape."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            forward(audio, lens)
    torch.cuda.current_stream().wait_stream(stream)
    graph, held = torch.cuda.CUDAGraph(), (audio.clone(), lens.clone())
    with torch.cuda.graph(graph):
        outputs = forward(*held)

    def replay(audio: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        held[0].copy_(audio)
        held[1].copy_(lens)
        graph.replay()
        return outputs

    return replay


def in_mode(mode: str, forward: Forward, audio: Tensor, lens: Tensor) -> Forward:
    """The forward pass in a mode. Raises `UserError` for an unknown one, or a graph without a GPU."""
    if mode == "eager":
        return forward
    if mode == "compile":
        return torch.compile(forward, mode="reduce-overhead" if audio.is_cuda else "default", dynamic=False)
    if mode == "graph" and audio.is_cuda:
        return captured(forward, audio, lens)
    raise UserError(f"`--modes` must be of eager, compile and, on a GPU, graph, but has {mode}")


@torch.inference_mode()
def measure_batch(forward: Forward, modes: list[str], batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """Mode -> times real time and ms of one batch, and its peak memory, for recordings of equal length."""
    size = int(args.seconds * SAMPLE_RATE)
    sound = 0.1 * torch.randn(batch, size)
    lens = torch.full((batch,), size, device=args.device)
    rows: dict[str, Any] = {}
    for mode in modes:
        if args.device == "cuda":  # what a graph's capture allocates is its own
            torch.cuda.reset_peak_memory_stats()
        run = in_mode(mode, forward, sound.to(args.device), lens)

        def transcribe(run: Forward = run) -> None:
            log_probs, frames = run(sound.to(args.device), lens)
            ctc_greedy_search(log_probs, frames)

        seconds = measure({mode: transcribe}, args.rounds, args.device)[mode]
        peak = torch.cuda.max_memory_allocated() if args.device == "cuda" else 1024 * peak_kib()
        rows[mode] = {"x_real_time": round(batch * args.seconds / seconds, 1), "ms": round(1e3 * seconds, 2),
                      "peak_mb": round(peak / 1e6)}  # fmt: skip
        print(f"batch {batch:4} {mode:8} {rows[mode]['x_real_time']:>10,.1f} x real time  {rows[mode]}", flush=True)
        if args.profile:
            activity = ProfilerActivity.CUDA if args.device == "cuda" else ProfilerActivity.CPU
            with profile(activities=[activity]) as trace:
                transcribe()
            key = f"self_{args.device}_time_total"
            print(trace.key_averages().table(sort_by=key, row_limit=15, max_name_column_width=60))
    return rows


def peak_kib() -> int:
    """Most memory that this process ever held, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@one_line_errors
def main() -> None:
    """Measure, print; with --write keep the result as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="zipa_large", choices=sorted(PRESETS))
    parser.add_argument("--vocab-size", type=int, default=127)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of every recording")
    parser.add_argument("--batches", default="1,16,64,256")
    parser.add_argument("--modes", default="", help="eager,compile,graph; empty: all that run on the device")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", default="none", choices=tuple(AMP))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--profile", action="store_true", help="also print where the time of one batch goes")
    parser.add_argument("--save", type=Path, help="write the result to this JSON file")
    parser.add_argument("--write", action="store_true", help="write results/torch_inference-PRESET-DEVICE-DATE.json")
    args = parser.parse_args()
    args.device = pick_device(args.device).type
    modes = args.modes.split(",") if args.modes else ["eager", "compile"] + ["graph"] * (args.device == "cuda")
    forward = forward_of(args.preset, args.vocab_size, torch.device(args.device), args.amp)
    rows = {batch: measure_batch(forward, modes, int(batch), args) for batch in args.batches.split(",")}
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    settings = {"preset": args.preset, "seconds": args.seconds, "amp": args.amp, "device": name}
    if args.save:
        save_result(args.save, settings | {"rows": rows}, args.device)
    if args.write:
        write_result(f"torch_inference-{args.preset}-{args.device}", settings | {"rows": rows}, args.device)


if __name__ == "__main__":
    raise SystemExit(main())
