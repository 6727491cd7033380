"""Flight of the Amazon Queen: the dialogues of an adventure game, American English by many actors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from couloir.data.corpora.base import NO_TRANSCRIPT, DebianCorpus, Dropped, Utterance
from couloir.data.corpora.folders import whole_folder
from couloir.data.corpora.queen_files import RECORDING, DataFile
from couloir.progress import track

_CLIPS = "clips"


class AmazonQueen(DebianCorpus):
    """The recordings whose line is known by the scripts' own structure."""

    name = "amazon-queen"
    summary = "English, about 30 parts of a game by many actors, 4.6 h (35 MB)"
    packages = ("flight-of-the-amazon-queen",)
    members = r"/queen\.1c$"

    def fetch(self, download_dir: Path) -> None:
        """As of the base class; then each recording as a separate file."""
        super().fetch(download_dir)
        clips = self.folder(download_dir) / _CLIPS
        if clips.is_dir():
            return
        data = self._data(download_dir)
        with whole_folder(clips) as folder:
            for name in track(data.named(RECORDING), "recordings of amazon-queen"):
                (folder / f"{name.removesuffix(RECORDING)}.mp3").write_bytes(data.read(name))

    def utterances(self, download_dir: Path) -> Iterator[Utterance | Dropped]:
        """One per recording of a line that is recorded in just the pieces that its script has."""
        data = self._data(download_dir)
        left = {name.removesuffix(RECORDING) for name in data.named(RECORDING)}
        recorded: dict[str, set[str]] = defaultdict(set)
        for clip in left:
            recorded[clip[:-1]].add(clip)
        for line in data.lines():
            clips = recorded.pop(line.key, set()) if line.spoken else set()
            left -= clips
            if clips == line.spoken.keys():
                for clip, text in line.spoken.items():
                    audio = self.folder(download_dir) / _CLIPS / f"{clip}.mp3"
                    yield Utterance(clip, str(audio), text, "en", line.speaker)
            elif clips:
                said = f"its line has {len(line.spoken)} pieces, {len(clips)} are recorded"
                yield from (Dropped(clip, "line and recordings differ", said) for clip in sorted(clips))
        yield from (Dropped(clip, NO_TRANSCRIPT, "no line of a script has its name") for clip in sorted(left))

    def _data(self, download_dir: Path) -> DataFile:
        return DataFile(next(self.folder(download_dir).rglob("queen.1c")))
