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

from couloir.errors import must_be, one_line_errors, shown


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
    from couloir.files import atomic_path, atomic_write, name_of_id, place_in, writing_to

    taken: set[str] = set()
    for utterance in itertools.islice(iterate_shar(args.shar), args.count):
        name = name_of_id(utterance.id, taken)  # ids are chosen by the maker of the folder
        wav, ipa = (place_in(args.out, f"{name}.{suffix}") for suffix in ("wav", "ipa"))
        with writing_to(args.out), atomic_path(wav) as path:
            soundfile.write(path, utterance.audio, SAMPLE_RATE, format="WAV")
        with writing_to(args.out), atomic_write(ipa, "w", "replace") as out:
            out.write(utterance.text + "\n")
        print(f"{wav}\t{shown(utterance.text)}")


if __name__ == "__main__":
    sys.exit(main())
