"""Times every decoding method on one device: a table of RTF, with and without the encoder.

    python benchmarks/decoding_search.py --preset medium --vocab-size 500

The weights are random, scaled so that outputs are as peaky as a trained model's and about a third of the frames emit.
Seconds of audio are those that the encoder's frames stand for. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from result_file import write_result

from couloir.decoding.fsa.ctc import ctc_graph_search
from couloir.decoding.fsa.graph import trivial_graph
from couloir.decoding.transducer.beam import modified_beam_search
from couloir.decoding.transducer.graph_search import fast_beam_search, fast_beam_search_nbest
from couloir.decoding.transducer.greedy import greedy_search
from couloir.models.heads.config import HeadsConfig
from couloir.models.zipformer.config import PRESETS
from couloir.models.zipformer.model import AsrModel, build_model

SECONDS_PER_EMBEDDED_FRAME = 0.02
EMITTING_SHARE = 0.3


def peaky_model(preset: str, vocab_size: int, dim: int) -> AsrModel:
    """A transducer with CTC whose random outputs are peaky."""
    torch.manual_seed(0)
    heads = HeadsConfig(use_transducer=True, use_ctc=True, decoder_dim=dim, joiner_dim=dim, vocab_size=vocab_size)
    model = build_model(PRESETS[preset], heads).eval()
    with torch.no_grad():
        model.joiner.output_linear.weight *= 20
        model.joiner.decoder_proj.weight *= 0.3
        frames = torch.randn(1000, model.joiner.encoder_proj.in_features)
        context = model.decoder(torch.tensor([[-1] * (heads.context_size - 1) + [0]]), need_pad=False)[:, 0]
        logits = model.joiner(frames, context)
        lead = logits[:, 1:].max(dim=1).values - logits[:, 0]
        model.joiner.output_linear.bias[0] += lead.quantile(1 - EMITTING_SHARE)
    return model


def measure(calls: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    """Median wall time of each call in s; they take turns, so that what else the machine does falls on all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first turn warms up
                times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="small", choices=sorted(PRESETS))
    parser.add_argument("--vocab-size", type=int, default=500)
    parser.add_argument("--joiner-dim", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--frames", type=int, default=250, help="encoder output frames per utterance")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write results/decoding_search-PRESET-DEVICE-DATE.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = peaky_model(args.preset, args.vocab_size, args.joiner_dim).to(args.device)
    subsampling = PRESETS[args.preset].output_downsampling_factor
    feats = torch.randn(args.batch, 2 * subsampling * args.frames + 7, 80, device=args.device)
    feat_lens = torch.full((args.batch,), feats.shape[1], device=args.device)
    with torch.no_grad():
        (encoded, lens), graph = model.forward_encoder(feats, feat_lens), trivial_graph(args.vocab_size)
        encoded = torch.randn_like(encoded)
        log_probs = (model.ctc_output(encoded) * 4).log_softmax(-1)
    methods: dict[str, Callable[[], Any]] = {
        "encoder": torch.no_grad()(lambda: model.forward_encoder(feats, feat_lens)),
        "greedy_search": lambda: greedy_search(model, encoded, lens),
        "greedy_search, one at a time": lambda: [
            greedy_search(model, encoded[i : i + 1], lens[i : i + 1])[0] for i in range(args.batch)
        ],
        "modified_beam_search": lambda: modified_beam_search(model, encoded, lens),
        "fast_beam_search": lambda: fast_beam_search(model, encoded, lens, graph),
        "fast_beam_search_nbest": lambda: fast_beam_search_nbest(model, encoded, lens, graph),
        "ctc-decoding": lambda: ctc_graph_search(log_probs, lens, graph),
    }
    audio = float(lens.sum()) * subsampling * SECONDS_PER_EMBEDDED_FRAME
    tokens = sum(len(h.tokens) for h in methods["greedy_search"]()) / float(lens.sum())
    took = measure(methods, args.rounds, args.device)
    encoder, greedy = took.pop("encoder"), took["greedy_search"]
    rows = {
        name: {
            "search_s": round(value, 3),
            "of_greedy": round(value / greedy, 2),
            "rtf": round(value / audio, 5),
            "rtf_with_encoder": round((value + encoder) / audio, 5),
            "with_encoder_of_greedy": round((value + encoder) / (greedy + encoder), 2),
        }
        for name, value in took.items()
    }
    print(
        f"{args.preset}, vocabulary {args.vocab_size}, batch {args.batch}, {audio:.0f} s of audio, {tokens:.2f} tokens"
    )
    print(f"{args.device}, {args.threads} threads; encoder {encoder:.2f} s, RTF {encoder / audio:.5f}\n")
    for name, row in rows.items():
        print(f"{name:30}", *(f"{key} {value:<8g}" for key, value in row.items()))
    if args.write:
        settings = {name: value for name, value in vars(args).items() if name != "write"}
        result = {"settings": settings, "audio_s": audio, "tokens_per_frame": round(tokens, 2),
                  "encoder_s": round(encoder, 3), "rows": rows}  # fmt: skip
        write_result(f"decoding_search-{args.preset}-{args.device}", result, args.device)


if __name__ == "__main__":
    main()
