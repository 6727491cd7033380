"""A run directory from elsewhere: what its configuration says of modules and paths is not followed."""

import argparse
import sys

import pytest
import yaml
from programs import ROOT
from random_run import random_run
from real_speech import prepare

from couloir.config import as_plain
from couloir.errors import UserError
from couloir.files import may_be_read
from couloir.inference.opening import open_source
from couloir.inference.source import Source
from couloir.inference.tokenizers import find_tokenizer
from couloir.recipes.run import load_run
from couloir.recipes.run_config import saved_config
from couloir.training.config import AveragingConfig

CTC = "--use-transducer False --use-ctc True"
RECIPE, RECIPES = "zipformer_crctc", ("zipformer_crctc", "zipformer_transducer")
MODULES = ["os", "evil", "zipformer_crctc.train", "../evil", "", "zipformer_crctc\n", "couloir.training.launch", "-m"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = prepare(tmp_path_factory.mktemp("foreign"))
    random_run(folder, "exp", recipe="zipformer_crctc", flags=CTC)
    return folder


@pytest.fixture
def home(prepared, tmp_path, monkeypatch):
    """A working folder with the run directory and its data in it."""
    for name in ("data", "exp"):
        (tmp_path / name).symlink_to(prepared / name) if name == "data" else None
    (tmp_path / "exp").mkdir()
    for path in (prepared / "exp").iterdir():
        (tmp_path / "exp" / path.name).symlink_to(path)
    (tmp_path / "exp/config.yaml").unlink()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(prepared, home, **changes):
    """The run's configuration with fields ``section__field`` changed."""
    values = as_plain(saved_config(prepared / "exp"))
    for name, value in changes.items():
        section, _, field = name.partition("__")
        values[section][field] = value
    (home / "exp/config.yaml").write_text(yaml.safe_dump(values))


def load(home, **flags):
    return load_run(argparse.Namespace(exp_dir=str(home / "exp"), **flags), AveragingConfig(), RECIPE, {}, "cpu")


def saved_values(folder):
    return open_source(Source(folder)).values


@pytest.mark.parametrize("name", [*MODULES, "zipformer_crctc", "couloir.families.zipformer:FAMILY", "zipformer "])
def test_a_family_is_a_name_of_a_table(prepared, home, name, monkeypatch):
    (home / "evil").mkdir()
    (home / "evil/train.py").write_text("raise SystemExit('code ran')")
    (home / "evil.py").write_text("raise SystemExit('code ran')")
    monkeypatch.syspath_prepend(home)
    values = {**as_plain(saved_config(prepared / "exp")), "family": name}
    (home / "exp/config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError, match="must be of a known family .zipformer: second-generation Zipformer"):
        load(home)
    assert "evil" not in sys.modules and "evil.train" not in sys.modules


def test_the_benchmarks_import_nothing_that_a_run_names(prepared, home, monkeypatch):
    monkeypatch.syspath_prepend(home)
    (home / "evil").mkdir()
    (home / "evil/train.py").write_text("from pathlib import Path\nPath('pwned').touch()\nDEFAULTS = {}\n")
    values = {**as_plain(saved_config(prepared / "exp")), "recipe": "evil"}
    (home / "exp/config.yaml").write_text(yaml.safe_dump(values))
    from benchmarks.decoding_methods import trained_run

    assert trained_run(home / "exp", "cpu").config.recipe == "evil"
    assert not (home / "pwned").exists()


def test_no_program_takes_a_modules_name_from_a_file():
    """Where modules are imported by a name that is not written there, the name is a constant or a flag."""
    allowed = {
        "couloir/losses/rnnt_backend.py": "refused unless of RNNT_BACKENDS",
        "couloir/decoding/extras.py": "constants of its callers",
        "couloir/families/registry.py": "of its own table",
        "couloir/features/front_end.py": "of its own table",
        "couloir/commands.py": "a program of a recipe that lies here",
        "benchmarks/rnnt_loss.py": "a flag",
        "benchmarks/train_step.py": "constants",
    }
    words = ("import_module(", "__import__(", " eval(", " exec(", "runpy", "pickle.load", "yaml.load(", "yaml.unsafe")
    found = set()
    for folder in ("couloir", "benchmarks", "local", "inference", *RECIPES):
        for path in (ROOT / folder).rglob("*.py"):
            if any(word in path.read_text() for word in words):
                found.add(str(path.relative_to(ROOT)))
    assert found <= allowed.keys() | {"benchmarks/gpu.py"}, found - allowed.keys()


@pytest.mark.parametrize(
    "place", ["/elsewhere/index", "../outside", "exp/../../outside", "~/index", "data/index", "index"]
)
def test_where_a_run_says_indexes_go_is_not_taken(prepared, home, place):
    write_config(prepared, home, data__index_dir=place)
    assert load(home).config.data.index_dir == ""
    assert load(home, index_dir="mine").config.data.index_dir == "mine"
    assert not (home / place).exists() and not (home.parent / "outside").exists()


@pytest.mark.parametrize(
    "place", ["/elsewhere/shar", "..", "../other", "link", "data/shar,/elsewhere", "exp/../../x", "\0"]
)
def test_data_outside_the_working_folder_want_the_flag(prepared, home, place):
    (home / "link").symlink_to(home.parent)
    write_config(prepared, home, data__manifest_dir=place)
    run = load(home)  # for exporting, no data are needed
    with pytest.raises(UserError, match="`--manifest-dir` must be given, but is missing; where the run says"):
        run.data()
    assert load(home, manifest_dir=str(prepared / "data/shar")).data().test_sets


def test_data_inside_the_working_folder_are_read(prepared, home):
    (home / "data").unlink()
    (home / "data").mkdir()
    write_config(prepared, home, data__manifest_dir="data/shar")
    assert load(home).unasked_data == ""


def test_data_that_a_run_mixes_in_want_the_flag_too(prepared, home):
    write_config(prepared, home, data__manifest_dir="data", data__use_mux=True, data__mux_manifest_dir="/elsewhere")
    (home / "data").unlink()
    assert load(home).unasked_data == "/elsewhere"


@pytest.mark.parametrize(("place", "read"), [("elsewhere", False), ("exp/mine", True), ("mine", True)])
def test_a_tokenizer_outside_the_working_folder_wants_the_flag(prepared, home, place, read):
    (home / "exp/lang").unlink()
    folder = home.parent / "elsewhere" if place == "elsewhere" else home / place
    folder.mkdir(exist_ok=True)
    (folder / "tokens.txt").write_text((prepared / "data/lang/tokens.txt").read_text())
    (home / "data").unlink()
    write_config(prepared, home, text__bpe_model=str(folder))
    if read:
        assert load(home).tokenizer.vocab_size
        assert find_tokenizer(home / "exp", saved_values(home / "exp"), None) == folder
        return
    for attempt in (lambda: load(home), lambda: find_tokenizer(home / "exp", saved_values(home / "exp"), None)):
        with pytest.raises(UserError, match="no tokenizer was found beside"):
            attempt()
    assert load(home, bpe_model=str(folder)).tokenizer.vocab_size


@pytest.mark.parametrize("text", [None, "x", 3, [], {"bpe_model": 3}, {"bpe_model": ["x"]}, {"bpe_model": "\0"}])
def test_a_strange_text_section_names_no_tokenizer(tmp_path, text):
    with pytest.raises(UserError, match="no tokenizer was found"):
        find_tokenizer(tmp_path, {"text": text}, None)


def test_what_may_be_read(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "work/out").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "work")
    run = tmp_path / "run"
    allowed = ["a", "./a/b", "a/../b", str(tmp_path / "work/x"), str(run / "lang"), "../run/lang"]
    refused = ["..", "../a", "a/../../b", "/", "/etc/passwd", "out", "out/x", "\0", str(tmp_path / "workshop")]
    assert [path for path in allowed + refused if may_be_read(path, run)] == allowed
    monkeypatch.chdir("/")
    assert not may_be_read("/etc/passwd", run) and may_be_read(str(run / "a"), run)
