import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from small_models import export, export_chunks, make_model, short_waves, write_tokens

from couloir.export.config import CtcOnnxConfig, OnnxConfig, StreamingOnnxConfig


@pytest.fixture(scope="session")
def waves():
    """Real speech for the exporters' check, short so that tests are."""
    return short_waves()


@pytest.fixture
def folder(tmp_path):
    write_tokens(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def exported(tmp_path_factory, waves):
    """(kind, streaming) -> the model, the folder of its ONNX files in all precisions, and their agreement."""
    made = {}

    def get(kind, streaming=False):
        if (kind, streaming) not in made:
            folder, model = tmp_path_factory.mktemp(kind), make_model(kind, causal=streaming)
            write_tokens(folder)
            if streaming:
                done = export_chunks(model, kind, StreamingOnnxConfig(fp16=True), folder, waves)
            else:
                config = CtcOnnxConfig(fp16=True) if kind == "ctc" else OnnxConfig(fp16=True)
                done = export(model, kind, config, folder, waves)
            made[kind, streaming] = model, folder, done
        return made[kind, streaming]

    return get
