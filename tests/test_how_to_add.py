"""docs/house.md is right: its table names what is there, and who follows it has added a corpus, a method, a family."""

import ast
import importlib
import json
import re
import shutil
import sys

import numpy as np
import pytest
from programs import ROOT, assert_one_line, run_program

sys.path.insert(0, str(ROOT / "tests" / "recipes"))
from random_run import random_run
from real_speech import FIXTURES, TINY, prepare

from couloir.data.corpora import registry as corpora
from couloir.data.shar import iterate_shar
from couloir.families import registry as families
from couloir.inference.recognizer import Recognizer

PAGE = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
FACTS = re.findall(r"^\| (.+) \| `(couloir/[\w/]+\.py)(?:::(\w+))?` \|$", PAGE, re.M)


def put(folder):
    """Write the programs that the page shows below a folder: each says in its first line what it is called."""
    for name, text in re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```", PAGE, re.S | re.M):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A folder with the page's programs, from which they can be imported."""
    put(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("toy"):
            del sys.modules[name]


def test_ten_facts_have_their_file():
    assert len(FACTS) == 10 and len({fact for fact, *_ in FACTS}) == 10
    for fact, path, name in FACTS:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
        targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
        assert not name or name in defined | {target.id for target in targets if isinstance(target, ast.Name)}, (
            fact,
            path,
            name,
        )


def test_a_corpus_is_a_class_and_a_line_of_the_table(written, monkeypatch):
    toy = importlib.import_module("toy_corpus").Toy
    builders = corpora.builders
    monkeypatch.setattr(corpora, "builders", lambda config: {**builders(config), "toy": toy})
    assert "toy " in run_program(written, "local/fetch_corpora.py", ["--list"]).stdout
    (written / "download" / "toy").mkdir(parents=True)
    words = ["мама мыла раму", "у попа была собака", "ехал грека через реку"]
    for path, text in zip(sorted(FIXTURES.glob("ru_*.flac")), words):
        shutil.copy(path, written / "download" / "toy" / f"{text.replace(' ', '_')}.flac")
    run_program(
        written, "local/fetch_corpora.py", ["--corpora", "toy", "--fallback", "False", "--transcripts", "words"]
    )
    run_program(written, "local/make_manifests.py", [])
    run_program(written, "local/make_phones.py", ["--nj", "1"])
    flags = "--nj 1 --heldout-utterances 0 --dev-utterances 0 --unseen-speaker-share 0 --min-words-per-second 0"
    run_program(written, "local/make_shar.py", flags)
    found = [(cut.id, cut.text, cut.language) for cut in iterate_shar(written / "data" / "shar" / "train")]
    assert sorted(text for _, text, _ in found) == sorted(words) and {language for *_, language in found} == {"ru"}


def smoothed_text(recognizer, audio):
    """What smoothing over three frames and a greedy search make of a recording, in numpy."""
    (rows,) = recognizer.backend.encode([audio])
    padded = np.pad(rows.astype(np.float64), ((1, 1), (0, 0)))
    counts = np.convolve(np.ones(len(rows)), np.ones(3), "same")[:, None]
    best = ((padded[:-2] + padded[1:-1] + padded[2:]) / counts).argmax(1)
    tokens = [int(token) for i, token in enumerate(best) if token and (i == 0 or token != best[i - 1])]
    return "".join(recognizer.backend.vocabulary.pieces[token].replace("▁", "") for token in tokens)


def test_a_decoding_method_is_a_class_and_a_program(written):
    prepare(written)
    random_run(written, "exp", "zipformer_crctc", "--use-transducer False --use-ctc True")
    flags = "--exp-dir exp --iter 1 --avg 1 --use-averaged-model False --manifest-dir data/shar --device cpu"
    run_program(written, "couloir/cli.py", f"decode toy_search {flags} --write-ctm True")
    (recogs,) = (written / "exp" / "smoothed").glob("recogs-test-heldout-*.txt")
    lines = [line.split(":\thyp=") for line in recogs.read_text(encoding="utf-8").splitlines() if ":\thyp=" in line]
    found = {name: "".join(ast.literal_eval(hyp)) for name, hyp in lines}
    recognizer = Recognizer.from_pretrained(written / "exp")
    cuts = list(iterate_shar(written / "data" / "shar" / "test-heldout"))
    assert found == {cut.id: smoothed_text(recognizer, cut.audio) for cut in cuts} and len(set(found.values())) > 1
    assert list((written / "exp" / "smoothed").glob("times-*.ctm"))


def test_a_family_is_a_model_a_description_and_what_joins_them(written, monkeypatch):
    monkeypatch.setitem(families.FAMILIES, "toy", importlib.import_module("toy_spec").TOY)
    prepare(written)
    flags = "--manifest-dir data/shar --bpe-model data/lang --num-workers 0 --device cpu --tensorboard False"
    flags += " --max-duration 8 --log-interval 1 --save-every-n 2 --final-decay 0 --width 16"
    for steps in (2, 4):
        words = ["train", "toy_recipe", *flags.split(), "--exp-dir", "exp", "--max-steps", str(steps)]
        run_program(written, "couloir/cli.py", words)
    rows = [json.loads(line) for line in (written / "exp" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4]
    assert "family: toy" in (written / "exp" / "config.yaml").read_text()
    shown = run_program(written, "couloir/cli.py", ["info", "exp"]).stdout
    assert re.search(r"family +toy", shown) and re.search(r"output rate +25 frames/s", shown)
    # Its weights and its runs are no other family's, and the other way round.
    other = f"--exp-dir exp --manifest-dir data/shar --bpe-model data/lang {TINY} --max-steps 1"
    refused = run_program(written, "zipformer_crctc/train.py", other, check=False)
    assert_one_line(refused, "--exp-dir", "toy")
    refused = run_program(written, "couloir/cli.py", ["train", "toy_recipe", "--width", "8", *words[2:]], check=False)
    assert refused.returncode == 0, "the later flag counts"
    refused = run_program(written, "couloir/cli.py", [*words, "--width", "8"], check=False)
    assert_one_line(refused, "`--width` must be 16 (this run was trained with it)", "8")
    shown = run_program(written, "couloir/cli.py", ["train", "toy_recipe", "--help"]).stdout
    assert "--width" in shown and "--num-encoder-layers" not in shown
