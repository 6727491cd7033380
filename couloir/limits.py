"""Bounds on what a file may claim or cost, each with its reason. What is beyond is refused in one line."""

from __future__ import annotations

MAX_LINE_CHARS = 1 << 24
"""Of a text's line: a book fits, a gzip of zeros does not."""

MAX_TEXT_BYTES = 1 << 30
"""Of a text that is read whole: tables of ten million rows fit."""

MAX_HOTWORD_SCORE = 1000
"""Of a hotword, for each token: 1 to 3 is usual; sums of it must stay numbers."""

MAX_YAML_CHARS = 1 << 17
"""Of a configuration: a run's own has 10 KiB."""

MAX_YAML_NODES = 20_000
"""Values of a configuration, what aliases stand for counted: ten lines of aliases can stand for gigabytes."""

MAX_YAML_DEPTH = 16
"""Values within each other; a run's configuration has 3."""

MAX_GAPS = 1024
"""Numbers that a table of ids, or a graph's states, may leave out: a place is made for each up to the highest, so a
line `word 2000000000` would take gigabytes."""

MAX_MANIFEST_LINE_BYTES = 1 << 24
"""Of one cut of a manifest: an hour of aligned phones has 3 MiB. A longer line is passed over."""

MAX_PASSED_LINES = 64
"""Times that length: a line that is only passed over; beyond it the manifest is damaged."""

MAX_EXPANSION = 200
"""Bytes of content for each byte of a packed manifest: real ones have 5 to 60, gzip itself ends at 1,032."""

EXPANSION_SLACK_BYTES = 1 << 24
"""Content that any packed manifest may have beside that: short ones may repeat themselves."""

MAX_LINES_LEFT_OUT = 100_000
"""Of one manifest, blank or no cuts: a packed file of a megabyte can have millions, each with its reason."""

MAX_TAR_HEADER_BYTES = 1 << 20
"""Of one header of a tar: a long name and its records have a few hundred."""

MAX_MEMBER_BYTES = 1 << 30
"""Of one recording in a tar, which is read whole: 9 hours of 16-bit wav at 16 kHz."""

MAX_CUT_SECONDS = 1e6
"""Of a cut's start and length: 11 days."""

MAX_ID_CHARS = 1000
"""Of a cut's id: names of files end at 255 bytes."""

MAX_NESTING = 16
"""Lists and objects within each other in a custom value of a manifest: reading them back takes stack."""

MAX_INDEX_HEADER_BYTES = 1 << 20
"""Of an index's first line, which has counts and a few examples."""

MAX_RUN_SECONDS = 60
"""Of one run of an ONNX model, whatever its input: for half a second of sound the largest takes 0.2 s on one core."""

MAX_RUN_NUMBERS_PER_SECOND = 400
"""Of a run's input, for each second that it may take beside those: a second of sound is 8,000 numbers as features or
16,000 as samples, and so has 20 or 40 s. The largest model takes 0.2 s on one core, a crowded one more."""

# Audio. What is decoded lies in memory whole: the file, its samples as float32 (4 bytes each, of every channel), and
# once more while they are resampled. The bounds keep that in proportion to the file.

MIN_SAMPLE_RATE = 1000
"""In Hz. Below it there is no speech, and a byte would become 16 samples or more at 16 kHz."""

MAX_SAMPLE_RATE = 1_048_575
"""In Hz, the highest that FLAC's header can hold; converters end at 768 kHz."""

MAX_AUDIO_CHANNELS = 64
"""Microphone arrays of speech corpora have up to 64. More is an array whose axes mean something else."""

MAX_AUDIO_BYTES = 1 << 34
"""Of one recording's file: 24 hours of CD sound."""

MAX_UNKNOWN_BYTES = 1 << 26
"""Of a file whose first bytes name no container that is known: what it is can be said without reading more."""

MAX_CHUNKS = 10_000
"""Of a WAV, AIFF, CAF or VOC file before its samples: editors write some dozens."""

MAX_SAMPLES = 1 << 31
"""Over all channels of one recording: 37 hours at 16 kHz, 8 GiB as float32."""

MAX_SAMPLES_PER_BYTE = 1000
"""Digital silence in FLAC's usual blocks has 300 for each byte; nothing that was recorded has more than 50."""

FREE_SAMPLES = 30_000_000
"""What any file may give, however small: 31 minutes at 16 kHz, 120 MB as float32."""


def max_samples(num_bytes: int) -> int:
    """How many samples, over all channels, an encoded recording of that many bytes may hold."""
    return min(MAX_SAMPLES, max(FREE_SAMPLES, MAX_SAMPLES_PER_BYTE * num_bytes))
