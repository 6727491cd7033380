"""Every command of docs/decoding.md runs, in a folder that is laid out as the README leaves it."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from commands import page_commands
from programs import ROOT, run_program
from random_run import random_run
from real_speech import prepare

from couloir.decoding.ctc_config import CTC_METHODS
from couloir.decoding.transducer.config import METHODS
from couloir.text.tokenizer import load_tokenizer

PAGE = ROOT / "docs" / "decoding.md"
COMMANDS = [command for command in page_commands(PAGE) if command.startswith("$PYTHON")]
CUT = {
    "train_lm.py": "--num-epochs 1",
    "finetune.py": "--max-duration 8 --min-utterance-duration 0.3 --num-epochs 1 --max-steps 1 --num-workers 0 "
    "--tensorboard False --warmup-batches 2",
}
SIZES = "--decoder-dim 16 --joiner-dim 16 --use-transducer True --use-ctc True"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    prepare(folder / "data/mine")
    for name in ("shar", "lang"):
        shutil.move(folder / "data/mine/data" / name, folder / "data/mine" / name)
    # random_run takes its data from data/: it is only given where that is.
    (folder / "data/shar").symlink_to(folder / "data/mine/shar")
    (folder / "data/lang").symlink_to(folder / "data/mine/lang")
    (folder / "exp").mkdir()
    random_run(folder, "exp/mine-transducer", flags=SIZES)
    shutil.copy(folder / "exp/mine-transducer/checkpoint-1.pt", folder / "exp/mine-transducer/best-valid-loss.pt")
    pieces = [piece for piece in load_tokenizer(folder / "data/lang").pieces[3:] if piece.isalpha()]
    (folder / "data/mine/text").write_text("\n".join(" ".join(pieces[i:] + pieces[:i]) for i in range(9)) + "\n")
    (folder / "data/mine/hotwords.txt").write_text(f"{pieces[0]}{pieces[1]}\n{pieces[2]} :3.5\n")
    return folder


@pytest.mark.slow
def test_its_commands_run(home):
    assert len(COMMANDS) > 10
    for command in COMMANDS:
        _, program, *words = shlex.split(command)
        more = "--num-workers 0 --iter 1 --avg 1" if program.endswith("decode.py") else CUT.get(Path(program).name, "")
        run_program(home, program, [*words, *more.split()])
    assert (home / "exp/mine-tuned/checkpoint-1.pt").is_file() and (home / "data/mine/lm-given/LG.npz").is_file()
    searched = {path.parent.name for path in (home / "exp/mine-transducer").glob("*/log-decode-*")}
    assert len(searched) == 8 and json.loads(next((home / "exp").glob("*/*/report.json")).read_text())


def test_it_names_every_method():
    text = PAGE.read_text(encoding="utf-8")
    short = {"fast_beam_search_nbest_LG": "..._nbest_LG", "fast_beam_search_nbest_oracle": "..._nbest_oracle",
             "modified_beam_search_lm_rescore_LODR": "..._lm_rescore_LODR"}  # fmt: skip
    misspelt = "ctc-prefix-beam-search-shallow-fussion"  # icefall's name of what the page spells right
    for method in (*METHODS, *CTC_METHODS):
        assert f"`{short.get(method, method)}`" in text or method == misspelt, method
