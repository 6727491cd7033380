#!/usr/bin/env python3
"""Transcribe recordings with an exported model. Needs onnxruntime, numpy, soundfile and soxr, and no torch.

    python inference/inference.py audio.wav --model-path exp/model.onnx --model-type ctc
    python inference/inference.py audio.wav --model-path exp --model-type transducer --suffix .int8.onnx --times

tokens.txt is looked for beside the model. A transducer's --model-path is the folder of its three files.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.config import TeachingParser
from couloir.errors import one_line_errors, shown
from couloir.inference.flags import add_model_flags, add_output_flags


@one_line_errors
def main() -> int:
    """Parse the flags, transcribe, print the text of each recording."""
    parser = TeachingParser(description=__doc__)
    parser.add_argument("audio", nargs="+", type=Path, help="recordings, or folders of them")
    add_model_flags(parser)
    add_output_flags(parser)
    parser.add_argument("--times", action="store_true", help="print each phone with start, end and confidence")
    flags = parser.parse_args()

    from couloir.inference.program import run_files

    run = run_files(flags, flags.audio)
    for name, transcript in run.transcripts.items() if not run.streamed else ():
        single = len(run.transcripts) + len(run.failed) == 1
        print(shown(transcript.text) if single else f"{shown(name)}\t{shown(transcript.text)}")
        for phone in transcript.phones() if flags.times else ():
            print(f"{phone.start:9.3f} {phone.end:9.3f}  {shown(phone.symbol)}\t{phone.confidence:.2f}")
    return run.exit_code()


if __name__ == "__main__":
    sys.exit(main())
