#!/usr/bin/env python3
"""Print the path of a memory allocator to preload when training on CPUs, or nothing where none can be had.

    LD_PRELOAD=$(python local/fetch_allocator.py downloads) python zipformer_crctc/train.py ...

glibc's spends part of a training step searching its lists (docs/cluster.md). jemalloc is taken
from the system, or downloaded as a Debian package and unpacked into the folder without being installed.
"""

from __future__ import annotations

import argparse
import ctypes.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from couloir.errors import UserError, one_line_errors

PACKAGE = "libjemalloc2"
LIBRARY = r"/libjemalloc\.so\.2$"


def fetched(download_dir: Path) -> Path:
    """The library out of Debian's package. Raises `UserError` when apt is missing or has none."""
    from couloir.data.corpora.debian import fetch_package, unpack, unpacked_folder

    folder = unpacked_folder(download_dir, PACKAGE, LIBRARY)
    if not folder.is_dir():
        unpack(fetch_package(PACKAGE, download_dir), folder, LIBRARY)
    return next(folder.rglob("libjemalloc.so.2")).resolve()


@one_line_errors
def main() -> None:
    """Print the library's path; say on standard error why there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("download_dir", type=Path, help="where packages are kept")
    args = parser.parse_args()
    installed = ctypes.util.find_library("jemalloc")
    try:
        print(installed or fetched(args.download_dir))
    except UserError:
        print(f"no allocator to preload: {PACKAGE} is not installed, and apt-get cannot fetch it", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
