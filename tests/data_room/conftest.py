import pytest
from shar_tools import utterances

from couloir.data.shar import write_shar
from couloir.text.tokenizer import TokenTable


@pytest.fixture
def tokenizer():
    return TokenTable(["<blk>", "<sos/eos>", "<unk>", "a", "b", "c"])


@pytest.fixture(scope="session")
def flat_folder(tmp_path_factory):
    """97 utterances in ten shards."""
    folder = tmp_path_factory.mktemp("flat") / "shar"
    write_shar(utterances(97), folder, shard_size=10)
    return folder
