"""What streaming costs: PER of a causal run on whole recordings, in PyTorch, and chunk by chunk, from its ONNX files.

    python benchmarks/streaming_accuracy.py --exp-dir demo/exp/streaming --data demo/festvox-ru/shar/test-heldout \\
        [--chunk-size 16 --left-context-frames 128] [--write]

PyTorch takes each recording at once under the mask of the chunks (simulated streaming) and, for comparison, without it.
The files of every precision take it chunk after chunk: in ONNX Runtime, and in sherpa-onnx's online recognizer, which
the samples reach a tenth of a second at a time. All search greedily.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from export_accuracy import SUFFIXES, error_rate, utterances
from result_file import write_result

from couloir.audio import SAMPLE_RATE
from couloir.errors import must_be, one_line_errors
from couloir.export.config import StreamingOnnxConfig
from couloir.export.onnx import export_streaming
from couloir.export.selfcheck import check_waves
from couloir.families.zipformer_export import export_parts, prepared
from couloir.inference.search import ctc_greedy, transducer_greedy
from couloir.recipes.run import LoadedRun, load_run
from couloir.recipes.run_config import saved_config
from couloir.training.config import AveragingConfig

PACKET = SAMPLE_RATE // 10
# Silence behind a recording, for the last chunk is computed only when it is whole.
TAIL = SAMPLE_RATE // 2
STEM = "a"
PARTS = {"ctc": ("ctc",), "transducer": ("encoder", "decoder", "joiner")}


class Files:
    """The files of one head in one precision, run by ONNX Runtime, one stream at a time."""

    def __init__(self, folder: Path, kind: str, suffix: str) -> None:
        self.kind = kind
        self.paths = {part: str(folder / f"{part}-{STEM}{suffix}") for part in PARTS[kind]}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.sessions = {part: onnxruntime.InferenceSession(path, options) for part, path in self.paths.items()}

    def run(self, part: str, *arrays: np.ndarray) -> list[np.ndarray]:
        """The outputs of one file."""
        session = self.sessions[part]
        return session.run(None, {value.name: array for value, array in zip(session.get_inputs(), arrays, strict=True)})

    def rows(self, feats: np.ndarray) -> np.ndarray:
        """feats: (T, 80) -> the encoder's output, or log-probabilities, of its whole chunks: (S, D)."""
        encoder = self.sessions[PARTS[self.kind][0]]
        window = encoder.get_inputs()[0].shape[1]
        step = int(encoder.get_modelmeta().custom_metadata_map["decode_chunk_len"])
        types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        states = [
            np.zeros([1 if isinstance(size, str) else size for size in value.shape], types[value.type])
            for value in encoder.get_inputs()[1:]
        ]
        rows = []
        for start in range(0, len(feats) - window + 1, step):
            found, *states = self.run(PARTS[self.kind][0], feats[None, start : start + window], *states)
            rows.append(found[0])
        return np.concatenate(rows)

    def tokens(self, rows: np.ndarray, context_size: int) -> list[int]:
        """Greedy search."""
        if self.kind == "ctc":
            return ctc_greedy(rows).tokens
        predict = lambda histories: self.run("decoder", histories)[0]  # noqa: E731
        join = lambda encoded, predicted: self.run("joiner", encoded, predicted)[0]  # noqa: E731
        return transducer_greedy([rows], predict, join, context_size)[0].tokens


class InPyTorch:
    """The same on the model itself, each recording taken at once: ``masked`` by chunks, or with all of it in sight."""

    def __init__(self, run: LoadedRun, kind: str, masked: bool) -> None:
        self.model: Any = prepared(run.model, full_context=not masked)
        self.head = self.model.ctc_log_probs if kind == "ctc" else self.model.joiner.encoder_proj
        self.kind, self.context_size = kind, run.config.heads.context_size

    @torch.no_grad()
    def rows(self, feats: np.ndarray) -> np.ndarray:
        """feats: (T, 80) -> (S, D)."""
        encoded, _ = self.model.forward_encoder(torch.from_numpy(feats)[None], torch.tensor([len(feats)]))
        return self.head(encoded)[0].numpy()

    @torch.no_grad()
    def tokens(self, rows: np.ndarray) -> list[int]:
        """Greedy search."""
        if self.kind == "ctc":
            return ctc_greedy(rows).tokens
        return transducer_greedy([rows], self._predict, self._join, self.context_size)[0].tokens

    def _predict(self, histories: np.ndarray) -> np.ndarray:
        decoded = self.model.decoder(torch.from_numpy(histories), need_pad=False)[:, 0]
        return self.model.joiner.decoder_proj(decoded).numpy()

    def _join(self, encoded: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        return self.model.joiner(torch.from_numpy(encoded), torch.from_numpy(predicted), project_input=False).numpy()


def with_sherpa(files: Files, tokens: Path, waves: list[np.ndarray]) -> list[str]:
    """Texts of sherpa-onnx's online recognizer."""
    import sherpa_onnx

    make = partial(sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc, model=files.paths.get("ctc"))
    if files.kind == "transducer":
        make = partial(sherpa_onnx.OnlineRecognizer.from_transducer, **files.paths)
    recognizer, texts = make(tokens=str(tokens), num_threads=1), []
    for wave in waves:
        stream = recognizer.create_stream()
        for start in range(0, len(wave), PACKET):
            stream.accept_waveform(SAMPLE_RATE, wave[start : start + PACKET])
            while recognizer.is_ready(stream):
                recognizer.decode_stream(stream)
        stream.input_finished()
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
        texts.append("".join(recognizer.tokens(stream)))
    return texts


def measure(run: LoadedRun, kind: str, waves: list[np.ndarray], references: list[list[str]]) -> list[dict[str, Any]]:
    """The rows of one head."""
    pieces, context_size = run.tokenizer.pieces, run.config.heads.context_size
    per = lambda found: error_rate(references, ["".join(pieces[i] for i in ids) for ids in found])  # noqa: E731
    feats = [run.fbank(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0][0].numpy() for wave in waves]
    rows: list[dict[str, Any]] = []
    for masked in (False, True):
        model = InPyTorch(run, kind, masked)
        expected = [model.rows(item) for item in feats]
        takes = "all at once, masked" if masked else "all at once"
        rows.append({"takes": takes, "precision": "PyTorch", "couloir": per(map(model.tokens, expected))})
    with TemporaryDirectory() as folder:
        place, config = Path(folder), StreamingOnnxConfig(fp16=True, suffix=STEM)
        run.tokenizer.save_tokens(place / "tokens.txt")
        parts = export_parts(run.model, kind, streaming=True)
        export_streaming(parts, run.config.fbank, config, place, check_waves(""), STEM)
        for precision, suffix in SUFFIXES.items():
            files = Files(place, kind, suffix)
            found = [files.rows(item) for item in feats]
            far = max(float(np.abs(ours - theirs[: len(ours)]).max()) for ours, theirs in zip(found, expected))
            size = sum(Path(path).stat().st_size for path in files.paths.values())
            rows.append({
                "takes": "chunks",
                "precision": precision,
                "megabytes": round(size / 1e6, 2),
                "difference": float(f"{far:.3g}"),
                "couloir": per(files.tokens(item, context_size) for item in found),
                "sherpa_onnx": error_rate(references, with_sherpa(files, place / "tokens.txt", waves)),
            })  # fmt: skip
    return rows


@one_line_errors
def main() -> None:
    """Print a table for each head; with --write keep each as a dated file beside this program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--exp-dir", type=Path, required=True, help="run directory of a causal model")
    parser.add_argument("--data", type=Path, required=True, help="Shar folder of a test set")
    parser.add_argument("--chunk-size", default="16", help="frames of 20 ms")
    parser.add_argument("--left-context-frames", default="128", help="frames of 20 ms")
    parser.add_argument("--write", action="store_true", help="write results/export_accuracy-RUN-HEAD-DATE.json")
    args = parser.parse_args()
    saved = saved_config(args.exp_dir)
    if saved is None or not saved.zipformer.causal:
        raise must_be("--exp-dir", "the run directory of a causal model", args.exp_dir)
    flags = argparse.Namespace(
        exp_dir=args.exp_dir, chunk_size=args.chunk_size, left_context_frames=args.left_context_frames
    )
    run = load_run(flags, AveragingConfig(), None, {}, "cpu")
    waves, references = utterances(args.data)
    waves = [np.pad(wave, (0, TAIL)) for wave in waves]
    for kind, there in (("ctc", run.config.heads.use_ctc), ("transducer", run.config.heads.use_transducer)):
        if there:
            rows = measure(run, kind, waves, references)
            print(kind, *map(json.dumps, rows), sep="\n")
            result = {"kind": f"{kind}, streaming", "utterances": len(waves), "rows": rows, "run": args.exp_dir.name}
            result |= {"data": args.data.name, "weights": run.suffix}
            result |= {"chunk_size": args.chunk_size, "left_context_frames": args.left_context_frames}
            if args.write:
                write_result(f"export_accuracy-{args.exp_dir.name}-{kind}", result)


if __name__ == "__main__":
    raise SystemExit(main())
