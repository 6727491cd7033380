"""A model in PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from couloir.decoding.hypothesis import Hypothesis
from couloir.decoding.transducer.frames import Scoring
from couloir.decoding.transducer.greedy import greedy_search
from couloir.features.front_end import FrontEnd
from couloir.inference.frame_times import frame_times
from couloir.inference.restricted_search import ctc_search, transducer_search
from couloir.inference.restriction import Restriction
from couloir.inference.vocabulary import Vocabulary
from couloir.models.heads.model import SpeechModel

WINDOW_BYTES = 300_000_000  # of a GPU, for 30 s through the published front end (8, 32, 128)
MAX_WINDOWS = 64


def windows_that_fit(device: torch.device) -> int:
    """How many windows of 30 s the free memory of a GPU can take at a time, at least 1."""
    free, _ = torch.cuda.mem_get_info(device)
    return min(max(1, free // WINDOW_BYTES), MAX_WINDOWS)


class TorchBackend:
    """A model with CTC (preferred where it has both heads) or transducer output.

    Args:
        model: the model. fbank: its features. vocabulary: its pieces. device: where to run.
        origin: where it came from. kind: "ctc" or "transducer"; None takes CTC where the model has it.
        files: that it was made of. average: which weights of them.
    """

    def __init__(
        self,
        model: SpeechModel,
        fbank: FrontEnd,
        vocabulary: Vocabulary,
        device: torch.device,
        origin: str = "",
        kind: str | None = None,
        files: Sequence[Path] = (),
        average: str = "",
    ) -> None:
        self.model, self.fbank = model.to(device).eval(), fbank.to(device)
        self.vocabulary, self.device, self.origin, self.files = vocabulary, device, origin, list(files)
        self.average = average
        self.kind = kind or ("ctc" if model.heads_config.use_ctc else "transducer")
        chunk, left = model.context() or (-1, -1)
        self.choices = {"chunk_size": chunk, "left_context_frames": left} if chunk > 0 else {}
        self.times = frame_times(model.geometry(), fbank.config)
        self.frame_shift = self.times.shift
        self.batch_size = windows_that_fit(device) if device.type == "cuda" else 8

    def encode(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As `Backend.encode`."""
        return self._encoded(waves, self.kind == "ctc")

    def encode_hidden(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """As `encode`, but the encoder's output of a CTC model, too: an attention decoder needs it."""
        return self._encoded(waves, False)

    @torch.inference_mode()
    def _encoded(self, waves: Sequence[np.ndarray], log_probs: bool) -> list[np.ndarray]:
        lens = torch.tensor([len(wave) for wave in waves])
        audio = torch.zeros(len(waves), int(lens.max()))
        for row, wave in zip(audio, waves):
            row[: len(wave)] = torch.from_numpy(wave)
        encoded, out_lens = self._forward(audio.to(self.device), lens.to(self.device), log_probs)
        return [frames[:n] for frames, n in zip(encoded.float().cpu().numpy(), out_lens.tolist())]

    def _forward(self, audio: Tensor, lens: Tensor, log_probs: bool) -> tuple[Tensor, Tensor]:
        feats, feat_lens = self.fbank(audio, lens)
        encoded, out_lens = self.model.forward_encoder(feats, feat_lens, padding="exact")
        return (self.model.ctc_log_probs(encoded) if log_probs else encoded), out_lens

    def searchable(self) -> tuple[SpeechModel, torch.device]:
        """As `Backend.searchable`."""
        return self.model, self.device

    @torch.inference_mode()
    def search(
        self,
        frames: Sequence[np.ndarray],
        bias: np.ndarray | None,
        restriction: Restriction | None = None,
        max_sym_per_frame: int = 1,
    ) -> list[Hypothesis]:
        """As `Backend.search`."""
        if self.kind == "ctc":
            return [ctc_search(rows, bias, restriction) for rows in frames]
        if restriction is not None:
            return self._search_restricted(frames, bias, restriction)
        lens = torch.tensor([len(rows) for rows in frames])
        padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(rows) for rows in frames], batch_first=True)
        scoring = Scoring(bias=None if bias is None else torch.from_numpy(bias).to(self.device))
        return greedy_search(
            self.model,
            padded.to(self.device),
            lens.to(self.device),
            max_sym_per_frame,
            scoring,
            max_symbols=None,  # a recording is searched whole
            first_history="none" if max_sym_per_frame == 1 else "blanks",
        )

    def _search_restricted(
        self, frames: Sequence[np.ndarray], bias: np.ndarray | None, restriction: Restriction
    ) -> list[Hypothesis]:
        decoder, joiner = self.model.decoder, self.model.joiner

        def there(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(self.device)

        def predict(histories: np.ndarray) -> np.ndarray:
            return joiner.decoder_proj(decoder(there(histories), need_pad=False).squeeze(1)).cpu().numpy()

        def join(encoded: np.ndarray, predicted: np.ndarray) -> np.ndarray:
            return joiner(there(encoded), there(predicted), project_input=False).cpu().numpy()

        projected = [joiner.encoder_proj(there(rows)).cpu().numpy() for rows in frames]
        return transducer_search(projected, predict, join, decoder.context_size, bias, restriction)
