"""Every decoding method of both programs, from the command's flags to the result files; and mistakes about them."""

import ast
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from random_run import call, random_run
from real_speech import prepare, utterances

from couloir.decoding.ctc_config import CTC_METHODS
from couloir.decoding.lm import RnnLm, TransformerLm
from couloir.decoding.lm_checkpoint import save_lm
from couloir.decoding.transducer.config import METHODS
from couloir.inference.recognizer import Recognizer
from couloir.recipes.lm import prepare_graphs
from couloir.recipes.lm_config import GraphConfig
from couloir.text.tokenizer import load_tokenizer
from couloir.training.config import AveragingConfig

TRANSDUCER, CTC, CRCTC = "zipformer_transducer.decode", "zipformer_transducer.ctc_decode", "zipformer_crctc.ctc_decode"
RNN = "--rnn-lm-embedding-dim 8 --rnn-lm-hidden-dim 8 --rnn-lm-num-layers 1"
TRANSFORMER = "--transformer-lm-embedding-dim 8 --transformer-lm-encoder-dim 8"
NEURAL = "--lm-exp-dir rnn --lm-epoch 2 --lm-avg 2"
SAMPLED = "--num-paths 20"
KEYS = {
    "modified_beam_search_lm_rescore": 40, "modified_beam_search_lm_rescore_LODR": 532, "nbest-rescoring": 20,
    "whole-lattice-rescoring": 20, "ctc-prefix-beam-search-attention-decoder-rescoring": 24,
    "attention-decoder-rescoring-no-ngram": 24, "attention-decoder-rescoring-with-ngram": 576,
}  # fmt: skip
NEEDS = {
    "beam_search": "--beam-size 2 --blank-penalty -4",
    "fast_beam_search_nbest": SAMPLED,
    "fast_beam_search_nbest_LG": f"{SAMPLED} --lang-dir lg",
    "fast_beam_search_nbest_oracle": SAMPLED,
    "fast_beam_search_LG": "--lang-dir lg",
    "modified_beam_search_lm_shallow_fusion": f"--use-shallow-fusion True {NEURAL}",
    "modified_beam_search_LODR": f"--use-shallow-fusion True --ngram-lm-scale -0.16 --lang-dir lg {NEURAL}",
    "modified_beam_search_lm_rescore": NEURAL,
    "modified_beam_search_lm_rescore_LODR": f"--lang-dir lg {NEURAL}",
    "1best": "--lang-dir lg",
    "nbest": f"--lang-dir lg {SAMPLED}",
    "nbest-oracle": f"--lang-dir lg {SAMPLED}",
    "nbest-rescoring": f"--lang-dir lg --lm-dir lg {SAMPLED}",
    "whole-lattice-rescoring": "--lang-dir lg --lm-dir lg",
    "attention-decoder-rescoring-no-ngram": SAMPLED,
    "attention-decoder-rescoring-with-ngram": f"--lang-dir lg --lm-dir lg {SAMPLED}",
}
OPTIONS = [
    (TRANSDUCER, "greedy_search", "--max-sym-per-frame 3", "_context-2_max-sym-per-frame-3"),
    (
        TRANSDUCER, "modified_beam_search", "--context-file hot --context-score 3",
        "__modified_beam_search__beam-size-4-context-score-3.0",
    ),
    (
        TRANSDUCER, "fast_beam_search", "--context-file hot --beam 9 --max-contexts 4 --max-states 8",
        "_beam-9.0_max-contexts-4_max-states-8_context-score-2.0",
    ),
    (
        TRANSDUCER, "modified_beam_search_lm_shallow_fusion",
        f"--lm-type transformer --transformer-lm-exp-dir tlm --lm-scale 0.2 {TRANSFORMER}",
        "__modified_beam_search_lm_shallow_fusion__beam-size-4_transformer-lm-scale-0.2",
    ),
    (
        TRANSDUCER, "modified_beam_search_lm_shallow_fusion", "--lm-type ngram --lang-dir lg",
        "__modified_beam_search_lm_shallow_fusion__beam-size-4_ngram-lm-scale-0.3",
    ),
    (CTC, "ctc-prefix-beam-search-shallow-fussion", f"--nnlm-scale 0.3 {NEURAL} {RNN}", "_beam-4_nnlm-scale-0.3"),
    (
        CTC, "ctc-prefix-beam-search-shallow-fussion",
        "--nnlm-type transformer --nnlm-scale 0.3 --lm-exp-dir tlm --lm-epoch 1 "
        "--lodr-ngram lg/2gram.arpa --lodr-lm-scale -0.1 --context-file hot --context-score 2",
        "_beam-4_nnlm-scale-0.3_lodr-scale--0.1_context_score-2.0",
    ),
    (
        CTC, "ctc-prefix-beam-search-shallow-fusion", "--lodr-ngram lg/2gram.arpa --lodr-lm-scale 0.5 --beam-size 3",
        "_beam-3_lodr-scale-0.5",
    ),
]  # fmt: skip


@pytest.fixture(scope="session")
def decoding_folder(tmp_path_factory):
    """Data, two runs with all heads, LG with n-grams, both kinds of neural LM, hotwords."""
    folder = prepare(tmp_path_factory.mktemp("decoding"))
    random_run(folder, "exp")
    random_run(folder, "crctc", "zipformer_crctc", "--use-transducer False --use-ctc True")
    pieces = [piece for piece in load_tokenizer(folder / "data/lang").pieces[3:] if piece.isalpha()]
    (folder / "text").write_text("\n".join(" ".join(pieces[i:] + pieces[:i]) for i in range(len(pieces))) + "\n")
    (folder / "hot").write_text(f"{pieces[0]}{pieces[1]}\n{pieces[2]} :3.5\n")
    prepare_graphs(GraphConfig(folder / "text", str(folder / "data/lang"), folder / "lg"))
    vocab_size = load_tokenizer(folder / "data/lang").vocab_size
    for name, lm in (
        ("rnn", RnnLm(vocab_size, 8, 8, 1)),
        ("tlm", TransformerLm(vocab_size, 8, 8, 2, 1)),
        ("foreign", RnnLm(vocab_size + 3, 8, 8, 1)),
    ):
        (folder / name).mkdir()
        for epoch in (1, 2):
            if name == "tlm":
                save_lm(folder / name / f"epoch-{epoch}.pt", lm, load_tokenizer(folder / "data/lang").pieces)
            else:
                torch.save({"model": lm.state_dict()}, folder / name / f"epoch-{epoch}.pt")
    return folder


def decode(folder, program, method, flags, exp_dir="exp"):
    """The rows of wer-summary, by key, and the stem of its name."""
    flags = f"--exp-dir {exp_dir} --iter 1 --avg 1 --decoding-method {method} {flags}"
    code, last = call(folder, program, flags)
    assert code == 0, last
    summary = max((folder / exp_dir / method).glob("wer-summary-*.txt"), key=lambda path: path.stat().st_mtime_ns)
    rows = dict(line.split("\t") for line in summary.read_text().splitlines()[1:])
    name = summary.stem.removeprefix("wer-summary-")
    recogs = sorted((folder / exp_dir / method).glob("recogs-*.txt"))
    assert len(recogs) >= len(rows)
    lines = recogs[0].read_text().splitlines()
    assert len(lines) == 8 and all(isinstance(ast.literal_eval(line.split("=", 1)[1]), list) for line in lines)
    return rows, name


CHEAP = ("greedy_search", "ctc-prefix-beam-search-shallow-fussion")


@pytest.mark.parametrize(
    ("program", "method"),
    [
        pytest.param(program, method, marks=() if method in CHEAP else pytest.mark.slow)
        for program, methods in ((TRANSDUCER, METHODS), (CTC, CTC_METHODS))
        for method in methods
    ],
)
def test_every_method_decodes_a_test_set(decoding_folder, program, method):
    rows, name = decode(decoding_folder, program, method, NEEDS.get(method, ""))
    assert len(rows) == KEYS.get(method, 1) and name.startswith("test-heldout-iter-1_avg-1")
    assert all(0 <= float(rate) < 1000 for rate in rows.values())


@pytest.mark.slow
@pytest.mark.parametrize(("program", "method", "flags", "suffix"), OPTIONS)
def test_every_option_decodes_a_test_set(decoding_folder, program, method, flags, suffix):
    rows, name = decode(decoding_folder, program, method, flags)
    assert len(rows) == 1 and name == f"test-heldout-iter-1_avg-1{suffix}"


@pytest.mark.parametrize("method", ["ctc-prefix-beam-search"])
def test_the_other_recipe_decodes_too(decoding_folder, method):
    rows, _ = decode(decoding_folder, CRCTC, method, "", "crctc")
    assert list(rows) == ["prefix-beam-search"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "method"),
    [(TRANSDUCER, "greedy_search"), (TRANSDUCER, "modified_beam_search"), (TRANSDUCER, "fast_beam_search"),
     (CTC, "ctc-prefix-beam-search"), (CTC, "ctc-decoding")],
)  # fmt: skip
def test_one_at_a_time_gives_the_same_text(decoding_folder, program, method):
    texts = []
    for seconds in (100, 0.1):
        shutil.rmtree(decoding_folder / "exp" / method, ignore_errors=True)
        decode(decoding_folder, program, method, f"--max-duration {seconds}")
        (recogs,) = (decoding_folder / "exp" / method).glob("recogs-test-heldout-iter-1_avg-1*.txt")
        texts.append(recogs.read_text())
    assert texts[0] == texts[1] and "hyp=['" in texts[0]


@pytest.mark.parametrize(
    ("program", "method", "flags", "words"),
    [
        (TRANSDUCER, "greedy_search", "", False),
        pytest.param(CTC, "1best", "--lang-dir lg --unit word", True, marks=pytest.mark.slow),
        pytest.param(TRANSDUCER, "fast_beam_search_LG", "--lang-dir lg", True, marks=pytest.mark.slow),
    ],
)
def test_times_are_written_beside_what_was_found(decoding_folder, program, method, flags, words):
    folder = decoding_folder / "exp" / method
    shutil.rmtree(folder, ignore_errors=True)
    decode(decoding_folder, program, method, f"{flags} --write-ctm True")
    (recogs,), (times,) = folder.glob("recogs-*.txt"), folder.glob("times-*.ctm")
    assert times.stem.removeprefix("times-") == recogs.stem.removeprefix("recogs-")
    lines = [line.split(":\thyp=") for line in recogs.read_text(encoding="utf-8").splitlines() if ":\thyp=" in line]
    found = {name: "".join(ast.literal_eval(hypothesis)) for name, hypothesis in lines}
    rows = [line.split(" ") for line in times.read_text(encoding="utf-8").splitlines()]
    assert {name: "".join(row[4] for row in rows if row[0] == name) for name in found} == found
    assert any(found.values()) and all(0 <= float(row[5]) <= 1 and row[1] == "1" for row in rows)
    for name in found:
        spans = [(float(row[2]), float(row[2]) + float(row[3])) for row in rows if row[0] == name]
        assert spans == sorted(spans) and all(begin <= end < 60 for begin, end in spans)
    known = set((decoding_folder / "lg/words.txt").read_text(encoding="utf-8").split())
    assert not words or {row[4] for row in rows} <= known


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "method", "flags"),
    [
        (TRANSDUCER, "modified_beam_search", {"beam_size": 4}),
        (TRANSDUCER, "fast_beam_search_LG", {"lang_dir": "lg"}),
        (CTC, "ctc-prefix-beam-search", {"beam_size": 4}),
        (CTC, "whole-lattice-rescoring", {"lang_dir": "lg", "lm_dir": "lg", "result": "lm_scale_0.3"}),
    ],
)
def test_a_recogniser_says_of_each_utterance_what_the_program_says(
    decoding_folder, program, method, flags, monkeypatch
):
    """The same run, the same method and flags, the same audio: the same text."""
    result = flags.get("result")
    words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in flags.items() if name != "result")
    shutil.rmtree(decoding_folder / "exp" / method, ignore_errors=True)
    decode(decoding_folder, program, method, words)
    (recogs,) = (decoding_folder / "exp" / method).glob(f"recogs-*{result}*.txt" if result else "recogs-*.txt")
    lines = [line.split(":\thyp=") for line in recogs.read_text(encoding="utf-8").splitlines() if ":\thyp=" in line]
    monkeypatch.chdir(decoding_folder)
    averaging = AveragingConfig(iter=1, avg=1)
    recognizer = Recognizer.from_pretrained("exp", decoding_method=method, averaging=averaging, **flags)
    audio = {utterance.id: utterance.audio for utterance in utterances()}
    for name, hypothesis in lines:
        (transcript,) = recognizer.transcribe([audio[name]])
        assert transcript.text.replace(" ", "") == "".join(ast.literal_eval(hypothesis)), name


MISTAKES = [
    (CRCTC, "crctc", "--decoding-method attention-decoder-rescoring-no-ngram", ["attention decoder"]),
    (CTC, "exp", "--decoding-method 1best --lang-dir none", ["LG.npz", "prepare_lm.py"]),
    (CTC, "exp", "--decoding-method 1best --lang-dir pathless", ["LG.npz", "path"]),
    (CTC, "exp", "--decoding-method 1best --lang-dir foreign-lg", ["labels of", "vocabulary size"]),
    (CTC, "exp", "--decoding-method 1best --lang-dir wordless", ["words.txt", "LG.npz"]),
    (TRANSDUCER, "exp", "--decoding-method fast_beam_search_LG --lang-dir foreign-lg", ["vocabulary size"]),
    (CTC, "exp", "--decoding-method whole-lattice-rescoring --lang-dir lg --lm-dir none", ["--lm-dir", "G_N_gram"]),
    (CTC, "exp", "--decoding-method nbest-rescoring --lang-dir lg --lm-dir foreign-lm", ["such as `quite`"]),
    (CTC, "exp", "--decoding-method ctc-greedy-search --nnlm-scale 0.3", ["--nnlm-scale", "shallow-fusion"]),
    (
        CTC, "exp", "--decoding-method ctc-prefix-beam-search-shallow-fusion --lodr-lm-scale 0.3",
        ["--lodr-lm-scale", "--lodr-ngram"],
    ),
    (
        CTC, "exp", "--decoding-method ctc-prefix-beam-search-shallow-fusion --nnlm-scale 0.3 --lm-exp-dir foreign "
        "--lm-epoch 1", ["foreign/epoch-1.pt", "vocabulary size"],
    ),
    (
        TRANSDUCER, "exp", f"--decoding-method modified_beam_search_lm_rescore {NEURAL} --lm-vocab-size 500",
        ["--lm-vocab-size", "500"],
    ),
    (
        TRANSDUCER, "exp", f"--decoding-method modified_beam_search_lm_rescore {NEURAL} --rnn-lm-num-layers 3",
        ["--rnn-lm-num-layers", "1, as rnn/epoch-1.pt has it", "leave it out"],
    ),
    (
        TRANSDUCER, "exp", "--decoding-method modified_beam_search_lm_rescore --lm-exp-dir tlm",
        ["--lm-type", "transformer"],
    ),
    (
        TRANSDUCER, "exp", "--decoding-method modified_beam_search_lm_shallow_fusion --lm-type ngram "
        "--lang-dir foreign-lm --tokens-ngram 4", ["such as `quite`"],
    ),
    (TRANSDUCER, "exp", "--decoding-method modified_beam_search --context-file odd", ["line 2", "§"]),
    (
        CTC, "exp", "--decoding-method ctc-prefix-beam-search-shallow-fusion --context-file odd --context-score 1",
        ["line 2", "§"],
    ),
    (CTC, "exp", "--bpe-model other", ["tokenizer", "--bpe-model"]),
    (CTC, "exp", "--decoding-method ctc-prefix-beam-search --beam-size 0", ["--beam-size"]),
]  # fmt: skip


@pytest.fixture(scope="session")
def with_mistakes(decoding_folder):
    """Graphs and n-grams that do not fit, a context file and a vocabulary of other symbols."""
    folder = decoding_folder
    (folder / "odd").write_text("\n§§\n")
    for name in ("pathless", "foreign-lg", "wordless"):
        shutil.copytree(folder / "lg", folder / name)
    arrays = dict(np.load(folder / "lg/LG.npz"))
    np.savez(folder / "foreign-lg/LG.npz", **{**arrays, "label": np.where(arrays["label"] > 0, 999, arrays["label"])})
    arrays["label"][arrays["label"] < 0] = 1
    np.savez(folder / "pathless/LG.npz", **{**arrays, "next": np.zeros_like(arrays["next"])})
    (folder / "wordless/words.txt").write_text("<eps> 0\n")
    (folder / "foreign-lm").mkdir()
    arpa = "\\data\\\nngram 1=4\n\n\\1-grams:\n-1 quite\n-1 other\n-1 <s>\n-1 </s>\n\n\\end\\\n"
    (folder / "foreign-lm/G_4_gram.arpa").write_text(arpa)
    (folder / "foreign-lm/4gram.arpa").write_text(arpa)
    (folder / "other").mkdir()
    (folder / "other/tokens.txt").write_text("<blk> 0\n<sos/eos> 1\n<unk> 2\na 3\n")
    return folder


@pytest.mark.parametrize(("program", "exp_dir", "flags", "words"), MISTAKES)
def test_mistakes_end_with_one_line(with_mistakes, program, exp_dir, flags, words):
    code, last = call(with_mistakes, program, f"--exp-dir {exp_dir} {flags}")
    assert code == 2 and last.startswith("error: "), last
    assert all(word in last for word in words), last


class TestCausal:
    @pytest.fixture(scope="class")
    def causal(self, decoding_folder):
        flags = "--use-transducer False --use-ctc True --causal True --chunk-size 8,16,-1 --left-context-frames 16,-1"
        random_run(decoding_folder, "causal", "zipformer_crctc", flags)
        return decoding_folder

    def test_files_name_the_chunks(self, causal):
        chunks = "--chunk-size 16 --left-context-frames 16"
        rows, name = decode(causal, CRCTC, "ctc-greedy-search", chunks, "causal")
        assert name == "test-heldout-iter-1_avg-1_chunk-16_left-context-16"

    def test_thirty_frames_follow_the_recording(self, monkeypatch, causal):
        """As icefall's decoding: each utterance is encoded with 30 more frames of silence."""
        from couloir.models.zipformer.model import AsrModel

        seen, encode = [], AsrModel.forward_encoder

        def spy(self, feats, feat_lens, padding=None):
            seen.append((feats, feat_lens))
            return encode(self, feats, feat_lens, padding)

        monkeypatch.setattr(AsrModel, "forward_encoder", spy)
        chunks = "--chunk-size 16 --left-context-frames 16"
        decode(causal, CRCTC, "ctc-greedy-search", chunks, "causal")
        for feats, lens in seen:
            assert int(lens.max()) == feats.shape[1]
            for utterance, length in zip(feats, lens):
                assert utterance[length - 30 :].eq(utterance[-1, 0]).all() and utterance[-1, 0] < -23.02
                assert utterance[length - 31].gt(-23).any()

    @pytest.mark.parametrize("flags", ["", "--chunk-size -1"])
    def test_the_context_is_full_unless_one_is_asked_for(self, causal, flags):
        rows, name = decode(causal, CRCTC, "ctc-greedy-search", flags, "causal")
        assert name == "test-heldout-iter-1_avg-1_chunk--1_left-context--1"
        assert decode(causal, CRCTC, "ctc-greedy-search", flags, "causal")[0] == rows

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            ("--chunk-size 8,16,-1", ("--chunk-size", "one value", "8,16,-1")),
            ("--chunk-size 16 --left-context-frames 16,-1", ("--left-context-frames", "one value")),
            ("--left-context-frames 16", ("--left-context-frames", "no effect without")),
            ("--chunk-size 7", ("--chunk-size", "multiples")),
            ("--chunk-size x", ("--chunk-size",)),
        ],
    )
    def test_contexts_that_cannot_be_are_refused(self, causal, flags, words):
        code, last = call(causal, CRCTC, f"--exp-dir causal {flags}")
        assert code == 2 and last.startswith("error: ") and all(word in last for word in words), last


@pytest.mark.parametrize(("date", "old"), [("2026-11-22", True), ("2026-11-30", False), ("2027-01-01", False)])
def test_rows_that_were_measured_under_other_rules_say_so(monkeypatch, date, old):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import results_decoding
    import results_page

    methods = {"1best": 12.28, "nbest": 11.93, "beam_search": 9.5, "modified_beam_search, hotwords": 9.7}
    rows = {name: {"per": per, "low": 8.0, "high": 13.0, "chosen_from": 1} for name, per in methods.items()}
    result = {"name": "a", "test_set": "b", "date": date, "runs": [{"heads": "CTC", "methods": rows}]}
    lines = results_decoding.methods_section([result], results_page.table)
    for name, per in methods.items():
        (line,) = [line for line in lines if line.startswith((f"| {name} |", f"| {name} ("))]
        assert f"| {per:.2f} (8.0 to 13.0)" in line
        assert ("measured before" in line) == (old and name != "1best")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "flags", "stem"),
    [
        ("method_table", "--exp-dir crctc exp --name tiny", "decoding_methods-tiny"),
        ("decoding_rtf", "--exp-dir exp --hours 0.001", "decoding_rtf-exp"),
    ],
)
def test_the_tables_of_methods(monkeypatch, capsys, decoding_folder, program, flags, stem):
    """One command decodes by the methods of both programs and leaves what RESULTS.md is made from."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import result_file
    import results_decoding
    import results_page

    monkeypatch.setattr(result_file, "RESULTS", decoding_folder)
    chosen = (
        "greedy_search;fast_beam_search_LG;ctc-greedy-search;1best;whole-lattice-rescoring;"
        "ctc-prefix-beam-search-shallow-fusion, RNN;fast_beam_search, hotwords"
    )
    monkeypatch.setattr(sys, "argv", [program, *flags.split(), "--lm-dir", "lm", "--write", "--methods", chosen])
    monkeypatch.chdir(decoding_folder)
    assert __import__(program).main() == 0
    result = results_page.newest(decoding_folder, stem)[0]
    if program == "method_table":
        assert [list(run["methods"]) for run in result["runs"]] == [
            ["ctc-greedy-search", "1best", "whole-lattice-rescoring", "ctc-prefix-beam-search-shallow-fusion, RNN"],
            ["greedy_search", "fast_beam_search_LG", "fast_beam_search, hotwords", "ctc-greedy-search", "1best",
             "whole-lattice-rescoring", "ctc-prefix-beam-search-shallow-fusion, RNN"],
        ]  # fmt: skip
        lines = results_decoding.methods_section([result], results_page.table)
        assert "| method | CTC | transducer + CTC + attention |" in lines
        assert result["runs"][0]["methods"]["whole-lattice-rescoring"]["chosen_from"] == 20
    else:
        assert result["speech_s"] > 3.6 and result["rows"]["greedy_search"]["of_greedy"] == 1.0
        assert any(
            "fast_beam_search_LG" in line for line in results_decoding.speed_section([result], results_page.table)
        )
