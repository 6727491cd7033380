"""What exporting costs: PER of a run in PyTorch, and of its ONNX files in every precision and two runtimes.

    python benchmarks/export_accuracy.py --exp-dir demo/exp/tiny --data demo/festvox-ru/shar/test-heldout [--write]

The run is exported as its programs export it, a CTC model with its features inside too, and the files are decoded by
couloir's Recognizer and by sherpa-onnx. The difference is the largest of the log-probabilities (of a transducer: of its
parts' outputs, on the speech of the exporter's own check) from PyTorch's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from kaldialign import edit_distance
from result_file import write_result

from couloir.audio import SAMPLE_RATE
from couloir.data.shar import iterate_shar
from couloir.export.config import CtcOnnxConfig, OnnxConfig
from couloir.export.onnx import export_offline
from couloir.export.publish import Agreements
from couloir.export.selfcheck import check_waves
from couloir.families.zipformer_export import export_parts
from couloir.features.fbank import Fbank
from couloir.inference.onnx_backend import OnnxBackend, ctc_file, transducer_files
from couloir.inference.recognizer import Recognizer
from couloir.inference.torch_backend import TorchBackend
from couloir.inference.transcript import Transcript
from couloir.inference.vocabulary import Vocabulary
from couloir.recipes.run import LoadedRun, load_run
from couloir.recipes.run_config import saved_config
from couloir.text.ipa import segment
from couloir.training.config import AveragingConfig

SUFFIXES = {"fp32": ".onnx", "fp16": ".fp16.onnx", "int8": ".int8.onnx"}


def utterances(folder: Path) -> tuple[list[np.ndarray], list[list[str]]]:
    """Waves and reference phones of a test set."""
    found = list(iterate_shar(folder))
    return [np.asarray(utterance.audio) for utterance in found], [segment(utterance.text) for utterance in found]


def error_rate(references: list[list[str]], texts: list[str]) -> float:
    """PER in percent."""
    errors = sum(edit_distance(ref, segment(text))["total"] for ref, text in zip(references, texts))
    return round(100 * errors / sum(map(len, references)), 2)


def export(run: LoadedRun, kind: str, folder: Path) -> dict[str, tuple[Path, Agreements]]:
    """Form -> its folder and how near its files are to PyTorch."""
    done: dict[str, tuple[Path, Agreements]] = {}
    forms = {"features": CtcOnnxConfig(fp16=True), "samples": CtcOnnxConfig(fp16=True, with_frontend=True)}
    for form, config in forms.items() if kind == "ctc" else [("features", OnnxConfig(fp16=True))]:
        place = folder / form
        run.tokenizer.save_tokens(place / "tokens.txt")
        parts = export_parts(run.model, kind)
        done[form] = place, export_offline(parts, run.config.fbank, config, place, check_waves(""), "a")
    return done


def with_sherpa(folder: Path, kind: str, suffix: str, waves: list[np.ndarray]) -> list[str]:
    """Texts of sherpa-onnx."""
    import sherpa_onnx

    tokens = str(folder / "tokens.txt")
    if kind == "ctc":
        model = str(ctc_file(folder, suffix))
        recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(model=model, tokens=tokens, num_threads=1)
    else:
        parts = {part: str(file) for part, file in transducer_files(folder, suffix).items()}
        recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(**parts, tokens=tokens, num_threads=1)
    texts = []
    for wave in waves:
        stream = recognizer.create_stream()
        stream.accept_waveform(SAMPLE_RATE, wave)
        recognizer.decode_stream(stream)
        texts.append("".join(stream.result.tokens))
    return texts


def largest_difference(found: list[Transcript], expected: list[Transcript]) -> float:
    """Of the log-probabilities of two runtimes."""
    pairs = [(a.log_probs, b.log_probs) for a, b in zip(found, expected)]
    return max(float(np.abs(a - b).max()) for a, b in pairs if a is not None and b is not None)


def measure(run: LoadedRun, data: Path) -> dict[str, Any]:
    """The whole table."""
    kind = "ctc" if run.config.heads.use_ctc else "transducer"
    waves, references = utterances(data)
    fbank, vocabulary = Fbank(run.config.fbank), Vocabulary(run.tokenizer.pieces)
    backend = TorchBackend(run.model, fbank, vocabulary, torch.device("cpu"), kind=kind)
    expected = Recognizer(backend).transcribe(waves, log_probs=kind == "ctc")
    rows = [{"takes": "", "precision": "PyTorch", "couloir": error_rate(references, [t.text for t in expected])}]
    print(json.dumps(rows[0]))
    with TemporaryDirectory() as folder:
        for form, (place, agreements) in export(run, kind, Path(folder)).items():
            for precision, suffix in SUFFIXES.items():
                found = Recognizer(OnnxBackend(place, suffix=suffix, threads=1)).transcribe(
                    waves, log_probs=kind == "ctc"
                )
                files = [file for file in agreements if (_precision(file) == precision)]
                far = max(agreements[file].max_difference for file in files)
                row: dict[str, Any] = {
                    "takes": form,
                    "precision": precision,
                    "megabytes": round(sum((place / file).stat().st_size for file in files) / 1e6, 2),
                    "difference": float(f"{largest_difference(found, expected) if kind == 'ctc' else far:.3g}"),
                    "couloir": error_rate(references, [t.text for t in found]),
                }
                if form == "features":
                    row["sherpa_onnx"] = error_rate(references, with_sherpa(place, kind, suffix, waves))
                print(json.dumps(row))
                rows.append(row)
    return {"kind": kind, "utterances": len(waves), "rows": rows}


def _precision(file: str) -> str:
    return next((p for p in ("fp16", "int8") if file.endswith(SUFFIXES[p])), "fp32")


def main() -> None:
    """Print the table; with --write keep it as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--exp-dir", type=Path, required=True, help="run directory")
    parser.add_argument("--data", type=Path, required=True, help="Shar folder of a test set")
    parser.add_argument("--write", action="store_true", help="write results/export_accuracy-RUN-DATE.json")
    args = parser.parse_args()
    saved = saved_config(args.exp_dir)
    if saved is None:
        parser.error(f"{args.exp_dir} is no run directory of this project")
    run = load_run(argparse.Namespace(exp_dir=args.exp_dir), AveragingConfig(), None, {}, "cpu")
    result = measure(run, args.data) | {"run": args.exp_dir.name, "data": args.data.name, "weights": run.suffix}
    if args.write:
        write_result(f"export_accuracy-{args.exp_dir.name}", result)


if __name__ == "__main__":
    main()
