"""Real-time factor of every decoding method on an hour of speech, encoder included.

    python benchmarks/decoding_rtf.py --exp-dir demo/exp/both --lm-dir demo/exp/lm --hours 1 --write
    python benchmarks/decoding_rtf.py --preset medium --data demo/festvox-ru/shar --lang demo/festvox-ru/lang \\
        --lm-dir demo/exp/lm --hours 1 --write

A trained run tells its own data; a preset gets random weights, scaled so that its outputs are about as peaky as a
trained model's and a third of the frames emit: honest for the encoder, less so for searches, whose work depends on
what they are given. Speech is taken from the train folder, longest first, until --hours are full. Each batch is encoded
once and searched by each method in turn.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from decoding_methods import (
    ENCODER,
    WITHOUT_FAST_NEED,
    Measured,
    measure,
    prepare_language,
    searches,
    trained_run,
)
from decoding_search import EMITTING_SHARE
from result_file import write_result

from couloir.audio import SAMPLE_RATE
from couloir.data.batch import Batch
from couloir.errors import UserError, one_line_errors
from couloir.features.fbank import Fbank
from couloir.machine import pick_device
from couloir.models.zipformer.model import build_model
from couloir.progress import log_to_screen
from couloir.recipes.decode import encode_batch
from couloir.recipes.decode_config import DecodeConfig
from couloir.recipes.run import LoadedRun
from couloir.recipes.run_config import build_config, make_parser
from couloir.text.tokenizer import load_tokenizer
from zipformer_transducer.train import DEFAULTS, RECIPE

PEAK = 6.0


def random_run(preset: str, data: Path, lang: Path, device: str) -> LoadedRun:
    """A model with random weights and all heads."""
    flags = f"--preset {preset} --use-ctc True --use-attention-decoder True"
    flags += f" --manifest-dir {data} --bpe-model {lang} --num-workers 0"
    config = build_config(make_parser("").parse_args(flags.split()), RECIPE, DEFAULTS)
    tokenizer, target = load_tokenizer(lang), pick_device(device)
    config = dataclasses.replace(config, heads=dataclasses.replace(config.heads, vocab_size=tokenizer.vocab_size))
    torch.manual_seed(0)
    model = build_model(config.zipformer, config.heads).to(target).eval()
    return LoadedRun(Path(preset), config, model, tokenizer, Fbank(config.fbank).to(target), "random weights", target)


@torch.no_grad()
def make_peaky(run: LoadedRun, batch: Batch) -> None:
    """Scale the heads' outputs by what a batch gives."""
    encoded = encode_batch(run, DecodeConfig(), batch.to(run.device))[0].flatten(0, 1)
    encoded = (encoded - encoded.mean(0)) / encoded.std(0)
    model: Any = run.model
    start = torch.tensor([[-1] * (run.config.heads.context_size - 1) + [0]], device=run.device)
    context = model.decoder(start, need_pad=False)[:, 0]
    for layer, logits in (
        (model.joiner.output_linear, lambda: model.joiner(encoded, context)),
        (model.ctc_output[1], lambda: model.ctc_output[1](encoded)),
    ):
        values = logits()
        layer.weight *= PEAK / values.std()
        layer.bias.zero_()
        values = logits()
        layer.bias[0] += (values[:, 1:].max(dim=1).values - values[:, 0]).quantile(1 - EMITTING_SHARE)


def first_hours(batches: Iterable[Batch], hours: float) -> Iterator[Batch]:
    """Batches until they hold so much speech."""
    seconds = 0.0
    for batch in batches:
        if seconds >= 3600 * hours:
            break
        seconds += float(batch.audio_lens.sum()) / SAMPLE_RATE
        yield batch


def table(found: Measured) -> dict[str, Any]:
    """Method -> its real-time factors, and its time as a multiple of the first greedy search's."""
    encoder = found.seconds[ENCODER]
    greedy = next(encoder + value for name, value in found.seconds.items() if "greedy" in name)
    return {
        name: {
            "rtf_search": round(value / found.speech_s, 5),
            "rtf": round((encoder + value) / found.speech_s, 5),
            "of_greedy": round((encoder + value) / greedy, 2),
        }
        for name, value in found.seconds.items()
        if name != ENCODER
    }


@one_line_errors
def main() -> None:
    """Measure, print the table; with --write keep it as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--exp-dir", type=Path, help="a trained run")
    parser.add_argument("--preset", help="or a size, for random weights")
    parser.add_argument("--data", type=Path, default=Path("demo/festvox-ru/shar"), help="speech, with --preset")
    parser.add_argument("--lang", type=Path, default=Path("demo/festvox-ru/lang"), help="vocabulary, with --preset")
    parser.add_argument("--lm-dir", type=Path, required=True, help="where language models are, or are made")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--methods", default="", help="names, separated by `;`; empty: all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-duration", type=float, default=200.0, help="seconds of speech in a batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", help="of the result (default: that of the run or the preset)")
    parser.add_argument("--write", action="store_true", help="write results/decoding_rtf-NAME-DATE.json")
    args = parser.parse_args()
    if bool(args.exp_dir) == bool(args.preset):
        raise UserError("give either `--exp-dir` or `--preset`")
    log_to_screen()
    torch.set_num_threads(args.threads)
    run = (
        trained_run(args.exp_dir, args.device)
        if args.exp_dir
        else random_run(args.preset, args.data, args.lang, args.device)
    )
    data = run.data(args.max_duration)
    if args.preset:
        make_peaky(run, next(iter(data.test_loader("train"))))
    prepare_language(run, args.lm_dir)
    chosen = [name.strip() for name in args.methods.split(";") if name.strip()]
    methods = dict(searches(run, args.lm_dir, chosen))
    if args.preset and not chosen:
        methods = {name: search for name, search in methods.items() if name not in WITHOUT_FAST_NEED}
    found = measure(run, methods, first_hours(data.test_loader("train"), args.hours), "train")
    rows = table(found)
    parameters = round(sum(p.numel() for p in run.model.parameters()) / 1e6, 1)
    encoder = round(found.seconds[ENCODER] / found.speech_s, 5)
    print(f"{run.exp_dir} ({parameters} M), {found.speech_s:.0f} s of speech, encoder RTF {encoder}")
    for name, row in rows.items():
        print(f"{name:55} RTF {row['rtf']:.5f}  search {row['rtf_search']:.5f}  of greedy's {row['of_greedy']:.2f}")
    if args.write:
        result = {
            "model": str(run.exp_dir), "weights": run.suffix, "million_parameters": parameters,
            "speech_s": round(found.speech_s, 1), "rtf_encoder": encoder,
            "device": str(run.device), "rows": rows,
        }  # fmt: skip
        write_result(f"decoding_rtf-{args.name or run.exp_dir.name}", result, run.device.type)


if __name__ == "__main__":
    raise SystemExit(main())
