#!/usr/bin/env python3
"""Transcribe a folder of recordings with an exported model. Needs onnxruntime, numpy, soundfile and soxr: no torch.

    python inference/batch_inference.py recordings --model-path exp/model.onnx --model-type ctc --output ipa.jsonl
    python inference/batch_inference.py recordings --model-path exp/model.onnx --model-type ctc --output grids/

Folders are searched to their depth. A run that was stopped goes on where it was when it is started again. A file
that cannot be read is reported, the rest go on, and the exit code is 2. What a person changed or deleted in the output
since stays as it is. Without --output, lines FILE<TAB>TEXT are printed.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.config import TeachingParser
from couloir.errors import one_line_errors, shown
from couloir.inference.flags import add_model_flags, add_output_flags, output_of_flags


@one_line_errors
def main() -> int:
    """Parse the flags, transcribe, say what was done."""
    parser = TeachingParser(description=__doc__)
    parser.add_argument("audio_dir", nargs="+", type=Path, help="folders, or single recordings")
    add_model_flags(parser)
    add_output_flags(parser)
    flags = parser.parse_args()

    from couloir.inference.program import run_files

    run = run_files(flags, flags.audio_dir)
    output = output_of_flags(flags)
    if output is None:
        for name, transcript in run.transcripts.items():
            print(f"{shown(name)}\t{shown(transcript.text)}")
    if run.transcripts or len(run.failed) > 1:  # one bad file has its one line
        print(run.summary(output), file=sys.stderr)
    return run.exit_code()


if __name__ == "__main__":
    sys.exit(main())
