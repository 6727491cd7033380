"""Bytes of files that are no model, and look a little like one."""

import io
import zipfile

import numpy as np
import soundfile


def wav_bytes():
    out = io.BytesIO()
    soundfile.write(out, np.zeros(800, np.float32), 16000, format="WAV")
    return out.getvalue()


def zip_bytes():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("notes/hello.txt", "hello")
    return out.getvalue()
