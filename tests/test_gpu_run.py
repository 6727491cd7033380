"""`benchmarks/gpu.py`: what it runs, what it leaves out and says so, and that it needs little beside torch."""

import json
import os
import subprocess
import sys
import time

import pytest
from programs import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu
import inference_sections
import results_page

from couloir.errors import UserError

# What a machine with a GPU may lack: all that couloir uses beside torch, numpy, sentencepiece and Triton.
ABSENT = (
    "lhotse soundfile soxr scipy yaml rich matplotlib tensorboard huggingface_hub safetensors kaldialign panphon "
    "urllib3 av onnx onnxruntime onnxconverter_common kaldifst kaldilm pytest hypothesis"
)


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """A plan with a folder of invented modules to run."""
    carried = tmp_path / "carried"
    carried.mkdir()
    (carried / "good.py").write_text("print('measured')")
    (carried / "bad.py").write_text("print('before'); raise SystemExit(3)")
    (carried / "slow.py").write_text("import time; print('begun', flush=True); time.sleep(60)")
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr("result_file.machine_facts", lambda device: {"machine": device})
    return gpu.Plan(out, "cuda", carried, time.monotonic() + 100)


def part(module, **values):
    return gpu.Part(module, "an invented part", ("-m", module), (), **{"limit_s": 30, "saves": False, **values})


def test_all_parts_fit_into_eight_minutes_and_have_a_name_of_their_own():
    assert sum(each.limit_s for each in gpu.PARTS) <= 8 * 60
    assert len({each.name for each in gpu.PARTS}) == len(gpu.PARTS)
    for each in gpu.PARTS:
        assert each.command[0] == "-m" or (ROOT / "benchmarks" / each.command[0]).is_file()


def test_parts_are_chosen_by_name_and_keep_their_order():
    assert [each.name for each in gpu.chosen("pruned, tests")] == ["tests", "pruned"]
    assert gpu.chosen("") == list(gpu.PARTS)
    with pytest.raises(UserError, match="unknown part `prunde`; did you mean `pruned`"):
        gpu.chosen("prunde")


def test_a_part_that_fails_or_takes_too_long_costs_the_others_nothing(plan, capsys):
    rows = gpu.run_all([part("bad"), part("slow", limit_s=1.5), part("good")], plan)
    assert {name: row["ended"] for name, row in rows.items()} == {
        "bad": "failed with code 3",
        "slow": "ran out of time",
        "good": "ok",
    }
    assert rows["bad"]["last_lines"] == ["before"]
    assert rows["slow"]["last_lines"] == ["begun"]
    assert (plan.out / "good.txt").read_text() == "measured\n"
    (written,) = plan.out.glob("gpu-*.json")
    assert json.loads(written.read_text())["rows"] == rows
    assert "measured" in capsys.readouterr().out


def test_results_are_written_after_every_part(plan, monkeypatch):
    seen = []
    monkeypatch.setattr(gpu, "save_result", lambda path, result, device: seen.append(list(result["rows"])))
    gpu.run_all([part("good"), part("bad")], plan)
    assert seen == [["good"], ["good", "bad"]]


def test_what_cannot_be_run_is_left_out_by_name(plan):
    assert gpu.run_part(part("good", needs="no_such_package"), plan) == {
        "ended": "left out: no_such_package is not installed here, nor in --carry"
    }
    late = gpu.Plan(plan.out, "cuda", plan.carried, time.monotonic() - 1)
    assert gpu.run_part(part("good"), late) == {"ended": "left out: no time was left"}


def test_a_table_that_a_part_saves_is_kept_with_it(plan):
    (plan.carried / "saving.py").write_text(
        "import sys; open(sys.argv[sys.argv.index('--save') + 1], 'w').write('{\"ms\": 9.5}')"
    )
    assert gpu.run_part(part("saving", saves=True), plan)["result"] == {"ms": 9.5}


def test_the_peer_is_compared_with_where_it_is_carried(plan):
    train = next(each for each in gpu.PARTS if each.name == "train-medium")
    assert "--peer" not in gpu.program(train, plan)
    (plan.carried / "zipformer").mkdir()
    command = gpu.program(train, plan)
    assert command[command.index("--peer") + 1] == str(plan.carried)
    assert command[command.index("--device") + 1] == "cuda"
    assert not set(train.tiny) & set(command) - {"--preset", "--utterances", "--seconds"}


def test_the_results_page_shows_every_figure():
    rows = {
        "train": {
            "what": "a step",
            "ended": "ok",
            "result": {"rows": [{"batch_count": 1000.0, "ours_ms": 61.234, "ratio": 0.6}]},
        },
        "pruned": {
            "what": "a loss",
            "ended": "ok",
            "result": {"repeats": 3, "pruned": {"median_ms": 9.5, "best_ms": 9.0}},
        },
        "late": {"what": "else", "ended": "left out: no time was left"},
    }
    lines = inference_sections.gpu_run([{"rows": rows, "machine": "a GPU", "date": "2026-01-01"}], results_page.table)
    assert lines[0] == "## On a GPU"
    assert lines[-3:] == [
        "| train | a step | ok | 1000.0 ours_ms 61.2; 1000.0 ratio 0.6 |",
        "| pruned | a loss | ok | pruned median_ms 9.5 |",
        "| late | else | left out: no time was left |  |",
    ]


def test_without_a_gpu_one_line_says_so(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 2
    assert capsys.readouterr().err.strip() == "error: no GPU is found here; `--dry-run` tries the commands on a CPU"


@pytest.mark.slow
def test_every_command_works_with_torch_and_little_else(tmp_path):
    """The dry run, in a Python that does not find what the machine with the GPU does not have."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Without:\n"
        "    def __init__(self, finder):\n"
        "        self.finder = finder\n"
        "    def __getattr__(self, name):\n"
        "        return getattr(self.finder, name)\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        absent = name.split('.')[0] in {ABSENT.split()!r}\n"
        "        return None if absent else self.finder.find_spec(name, path, target)\n"
        "sys.meta_path[:] = map(Without, sys.meta_path)\n"
    )
    command = [sys.executable, "benchmarks/gpu.py", "--dry-run", "--out", str(tmp_path / "out"), "--minutes", "4"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    (written,) = (tmp_path / "out").glob("gpu-*.json")
    rows = json.loads(written.read_text())["rows"]
    ended = {name: row["ended"] for name, row in rows.items()}
    assert ended.pop("tests") == "left out: pytest is not installed here, nor in --carry"
    assert set(ended.values()) == {"ok"}
    assert rows["kernels"]["result"]["rows"]["lattice, float32"]["largest_difference"] < 1e-5
    assert rows["train-medium"]["result"]["rows"][0]["ours_ms"] > 0
