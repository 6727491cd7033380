#!/usr/bin/env python3
"""Write utterances of a Shar folder as ordinary files: NAME.wav and, with the reference transcript, NAME.ipa.

python local/write_wavs.py data/shar/test-heldout wavs --count 3
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.errors import must_be, one_line_errors


@one_line_errors
def main() -> None:
    """Parse the arguments and write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shar", type=Path, help="a folder of cuts.*.jsonl.gz and recording.*.tar")
    parser.add_argument("out", type=Path, help="where to write")
    parser.add_argument("--count", type=int, default=3, help="how many, from the first on (default: 3)")
    args = parser.parse_args()
    if args.count < 1:
        raise must_be("--count", "at least 1", args.count)

    import soundfile

    from couloir.audio import SAMPLE_RATE
    from couloir.data.shar import iterate_shar
    from couloir.files import atomic_path, atomic_write

    for utterance in itertools.islice(iterate_shar(args.shar), args.count):
        with atomic_path(args.out / f"{utterance.id}.wav") as path:
            soundfile.write(path, utterance.audio, SAMPLE_RATE, format="WAV")
        with atomic_write(args.out / f"{utterance.id}.ipa", "w") as out:
            out.write(utterance.text + "\n")
        print(f"{args.out / utterance.id}.wav\t{utterance.text}")


if __name__ == "__main__":
    sys.exit(main())
