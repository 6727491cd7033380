"""Small recordings in memory, and pieces of containers written by hand."""

from __future__ import annotations

import io
import struct

import numpy as np
import soundfile

RATE = 16000


def tone(seconds: float = 0.5, rate: int = RATE, hertz: float = 440.0, amplitude: float = 0.25) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype=subtype)
    return out.getvalue()


def pcm16(samples: np.ndarray) -> bytes:
    return np.round(samples * 2**15).astype("<i2").tobytes()


def chunk(tag: bytes, body: bytes, size: int | None = None, padded: bool = True) -> bytes:
    return tag + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (padded and len(body) % 2)


def fmt(
    coded: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, width: int = 0, more: bytes = b""
) -> bytes:
    """A WAV's format chunk; ``width`` is bytes of one sample."""
    align = channels * (width or -(-bits // 8))
    return chunk(b"fmt ", struct.pack("<HHIIHH", coded, channels, rate, rate * align & 0xFFFFFFFF, align, bits) + more)


def riff(*chunks: bytes, form: bytes = b"RIFF", size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return form + struct.pack("<I", len(body) if size is None else size) + body
