"""What the trainer does when a run is bounded, resumed by hand, or put on a bad footing."""

import json
import logging
import math

import pytest
import torch
from fake_run import FakeData, fake_config

from couloir.errors import UserError
from couloir.weight_files import weight_files


def lines(tmp_path, name="metrics.jsonl", kind=None):
    found = [json.loads(line) for line in (tmp_path / "exp" / name).read_text().splitlines()]
    return [line for line in found if kind is None or line["kind"] == kind]


def files(tmp_path, pattern="*.pt"):
    return sorted(path.name for path in (tmp_path / "exp").glob(pattern))


def test_two_epochs_leave_icefalls_files(tmp_path, train):
    train(num_epochs=2, save_every_n=10, keep_last_k=2)
    assert files(tmp_path) == [
        "best-train-loss.pt",
        "best-valid-loss.pt",
        "checkpoint-40.pt",
        "checkpoint-50.pt",
        "epoch-1.pt",
        "epoch-2.pt",
        "last.pt",
    ]
    saved = torch.load(tmp_path / "exp" / "epoch-2.pt", weights_only=True)
    expected = {
        "model",
        "model_avg",
        "optimizer",
        "scheduler",
        "grad_scaler",
        "sampler",
        "batch_idx_train",
        "cur_epoch",
    }
    assert expected | {"best_valid_loss", "train_loss", "config", "num_epochs", "exp_dir", "dtype"} <= saved.keys()
    assert (saved["cur_epoch"], saved["batch_idx_train"], saved["average_period"]) == (2, 52, 200)
    assert saved["config"]["trainer"]["num_epochs"] == 2
    assert (tmp_path / "exp" / "config.yaml").is_file()
    assert list((tmp_path / "exp" / "log").iterdir())
    losses = [line["loss"] for line in lines(tmp_path, kind="train")]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_the_log_line_is_icefalls(train, caplog):
    with caplog.at_level(logging.INFO):
        train(max_steps=2)
    wanted = (
        "Epoch 1, batch 2, loss[loss=",
        "over 40.00 frames. ], tot_loss[loss=",
        "batch size: 4, lr: ",
        "grad_scale: 1.0",
    )
    assert any(all(part in message for part in wanted) for message in caplog.messages)


def test_a_run_bounded_by_batches_decays_saves_and_is_complete(tmp_path, train):
    train(max_steps=30, num_epochs=9)
    rates = [line["lr"] for line in lines(tmp_path, kind="train")]
    assert len(rates) == 30
    assert rates[23] == pytest.approx(rates[22], rel=0.01)
    # The last fifth: six batches, from 6/6 to 1/6.
    assert rates[29] == pytest.approx(rates[23] / 6, rel=0.05)
    assert "checkpoint-30.pt" in files(tmp_path)
    again = train(max_steps=30, num_epochs=9)
    assert again.state.step == 30
    assert len(lines(tmp_path, kind="train")) == 30


def test_a_time_budget_is_kept_over_a_restart(tmp_path, train):
    first = train(time_budget_minutes=1 / 600, num_epochs=10**6)
    assert first.state.elapsed_s >= 0.1
    again = train(time_budget_minutes=1 / 600, num_epochs=10**6)
    assert again.state.step == first.state.step


@pytest.mark.parametrize(
    ("flags", "step", "epoch"), [({"start_batch": 20}, 20, 1), ({"start_epoch": 2}, 26, 2), ({}, 52, 3)]
)
def test_resuming_by_hand_and_automatically(tmp_path, train, caplog, flags, step, epoch):
    train(num_epochs=2, save_every_n=20, save_last_every=0)
    with caplog.at_level(logging.INFO):
        train(num_epochs=2, **flags)
    assert f"epoch {epoch}, batch {step}" in caplog.text


@pytest.mark.parametrize("flags", [{"start_batch": 20}, {"start_epoch": 2}])
def test_the_same_command_goes_on_from_where_it_came_to(tmp_path, train, caplog, flags):
    """As ZIPA's own, which names a checkpoint, and SLURM, which starts a job again."""
    train(max_steps=30, save_every_n=10, final_decay=0)
    train(max_steps=40, save_every_n=10, final_decay=0, **flags)
    before = {name: (tmp_path / "exp" / name).read_bytes() for name in files(tmp_path)}
    caplog.clear()
    trainer = train(max_steps=50, save_every_n=10, final_decay=0, **flags)
    assert "checkpoint-40.pt: epoch 2, batch 40" in caplog.text and trainer.state.step == 50
    assert "goes on from checkpoint-40.pt; to begin there again, move what is newer elsewhere" in caplog.text
    assert before.items() <= {name: (tmp_path / "exp" / name).read_bytes() for name in files(tmp_path)}.items()


def test_a_step_back_puts_what_is_later_aside(tmp_path, train, caplog):
    train(max_steps=40, save_every_n=10, final_decay=0)
    before = {name: (tmp_path / "exp" / name).read_bytes() for name in files(tmp_path)}
    train(max_steps=25, save_every_n=10, final_decay=0, start_batch=20)
    assert "beyond batch 20 is now aside-1-*: checkpoint-40.pt, checkpoint-30.pt, epoch-1.pt, best-" in caplog.text
    assert [name for name in files(tmp_path) if not name.startswith("aside")] == [
        "checkpoint-10.pt", "checkpoint-20.pt", "checkpoint-25.pt", "last.pt",
    ]  # fmt: skip
    aside = {name.removeprefix("aside-1-"): name for name in files(tmp_path, "aside-1-*.pt")}
    assert {*aside} == {
        "checkpoint-30.pt",
        "checkpoint-40.pt",
        "epoch-1.pt",
        "best-train-loss.pt",
        "best-valid-loss.pt",
    }
    assert all((tmp_path / "exp" / name).read_bytes() == before[was] for was, name in aside.items())
    assert len(lines(tmp_path, "aside-1-metrics.jsonl", "train")) == 40 and len(lines(tmp_path, kind="train")) == 25
    # Once more, and both timelines are kept.
    train(max_steps=15, final_decay=0, start_batch=10)
    assert {"aside-1-checkpoint-40.pt", "aside-2-checkpoint-25.pt"} <= {*files(tmp_path)}
    assert [path.name for path in weight_files(tmp_path / "exp")] == ["checkpoint-10.pt", "checkpoint-15.pt", "last.pt"]


def test_a_run_directory_in_use_is_not_begun_anew(train):
    train(max_steps=3)
    with pytest.raises(UserError, match="--resume none.*holds"):
        train(max_steps=3, resume="none")


def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, train, caplog):
    train(num_epochs=1, save_every_n=10, save_last_every=0)
    for name in ("epoch-1.pt", "checkpoint-20.pt"):
        path = tmp_path / "exp" / name
        path.write_bytes(path.read_bytes()[:-100])
    with caplog.at_level(logging.INFO):
        train(num_epochs=1)
    assert "checkpoint-10.pt: epoch 1, batch 10" in caplog.text
    assert "epoch-1.pt is damaged" in caplog.text


def test_another_models_checkpoint_is_refused(train):
    train(max_steps=3)
    with pytest.raises(UserError, match=r"layers\.0\.weight` must be \(12, 4\), but is \(8, 4\)"):
        train(max_steps=3, width=12)


def test_another_recipes_directory_is_refused(train):
    train(max_steps=3)
    with pytest.raises(UserError, match=r"--exp-dir` must be a run of other, but is .*, a run of fake"):
        train(max_steps=3, recipe="other")


def test_an_icefall_checkpoint_is_gone_on_from(tmp_path, train, caplog):
    trainer = train(max_steps=5)
    kept = ("model", "model_avg", "optimizer", "scheduler", "batch_idx_train", "cur_epoch", "best_train_loss")
    saved = torch.load(tmp_path / "exp" / "checkpoint-5.pt", weights_only=True)
    for path in (tmp_path / "exp").glob("*.pt"):
        path.unlink()
    foreign = {**{key: saved[key] for key in kept}, "sampler": {"lhotse": 1}, "grad_scaler": None}
    torch.save(foreign, tmp_path / "exp" / "checkpoint-5.pt")
    with caplog.at_level(logging.INFO):
        trainer = train(max_steps=8, start_batch=5)
    assert "checkpoint-5.pt: epoch 1, batch 5" in caplog.text
    assert trainer.state.step == 8


def test_a_batch_that_is_not_finite_is_skipped_named_and_saved(tmp_path, train, caplog):
    trainer = train(num_epochs=1, poison=("utt7",))
    assert trainer.recovery.skipped == 1
    (skipped,) = lines(tmp_path, "skipped.jsonl")
    assert "utt7" in skipped["utterances"]
    assert skipped["reason"] == "loss not finite"
    (batch,) = (tmp_path / "exp").glob("batch-*.pt")
    assert torch.load(batch, weights_only=True)["ids"] == skipped["utterances"]
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert len(lines(tmp_path, kind="train")) == 25


def test_a_run_that_diverges_goes_back_with_a_smaller_rate_and_recovers(tmp_path, train, caplog):
    trainer = train(num_epochs=2, save_every_n=5, poison_from=8, poison_lr=0.011, max_bad_batches=3, log_interval=1)
    assert trainer.recovery.rollbacks == 1
    assert trainer.recovery.lr_scale == 0.5
    assert "went back to checkpoint-5.pt, learning rate times 0.5" in caplog.text
    assert trainer.state.step == 52
    # The batches after the checkpoint were trained on after the return, with half the rate.
    rates = {line["step"]: line["lr"] for line in lines(tmp_path, kind="train")}
    assert rates.keys() == set(range(1, 53))
    assert rates[8] < 0.011 < rates[5]


def test_a_run_that_diverges_for_good_stops_with_advice(tmp_path, train):
    with pytest.raises(UserError, match=r"training diverged.*--base-lr.*--inf-check") as error:
        train(num_epochs=2, poison_from=4, max_rollbacks=2)
    assert "\n" not in str(error.value)
    assert "went" not in str(error.value)
    saved = torch.load(tmp_path / "exp" / "last.pt", weights_only=True)
    assert saved["recovery"]["lr_scale"] == 0.25


def test_a_checkpoint_that_is_not_finite_is_not_gone_back_to(tmp_path, train):
    train(max_steps=10, save_every_n=5, final_decay=0)
    path = tmp_path / "exp" / "checkpoint-10.pt"
    content = torch.load(path, weights_only=True)
    content["model"]["unused"][0] = math.nan
    torch.save(content, path)
    trainer = train(max_steps=20, poison_from=11, poison_lr=0.011, final_decay=0)
    assert trainer.state.step == 20
    assert "bad-checkpoint-10.pt" in files(tmp_path)


def test_an_empty_batch_is_passed_over(train):
    trainer = train(FakeData(empty={(0, 3)}), max_steps=6, final_decay=0)
    assert trainer.state.step == 6
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_batch_counts_follow_the_reference_duration(train, monkeypatch):
    counts = []
    monkeypatch.setattr("couloir.training.trainer.set_batch_count", lambda model, count: counts.append(count))
    train(max_steps=21, batch_count_scale=10.0)
    # 4 s of audio per batch against 600 s: 10 batches are 10 * 4 / 600, times 10.
    assert sorted(set(counts)) == pytest.approx([0.0, 2 / 3, 4 / 3])


def test_diagnostics_stop_after_six_batches_and_save_nothing(tmp_path, train, caplog):
    with caplog.at_level(logging.INFO):
        train(print_diagnostics=True)
    assert "output    layers.1" in caplog.text
    assert "gradient  layers.0" in caplog.text
    assert "parameter unused" in caplog.text
    assert files(tmp_path) == []


@pytest.mark.parametrize(("data", "flags", "batches"), [(FakeData(16), {}, 4), (FakeData(), {"max_steps": 3}, 3)])
def test_diagnostics_of_fewer_batches_print_what_there_is(tmp_path, train, caplog, data, flags, batches):
    train(data, print_diagnostics=True, **flags)
    assert f"statistics of {batches} batches" in caplog.text and files(tmp_path) == []


def test_diagnostics_count_from_the_programs_start(train, caplog):
    train(max_steps=10, final_decay=0)
    assert train(print_diagnostics=True).state.step == 16
    assert "statistics of 6 batches" in caplog.text


def test_inf_check_names_the_first_module(train, caplog):
    class Breaks(torch.nn.Module):
        def forward(self, x):
            return x * math.inf

    from fake_run import FakeModel, FakeObjective

    from couloir.training.diagnostics import InfCheck

    model = FakeModel()
    model.layers[1] = Breaks()
    InfCheck(model)
    FakeObjective(model)(FakeData().hardest_batches()[0], 1)
    assert "the first output that is not finite is of layers.1" in caplog.text


def test_the_largest_batches_are_tried_first_and_named_when_they_do_not_fit(train, monkeypatch):
    from fake_run import FakeObjective

    before = train(max_steps=1).model.state_dict()
    scanned = train(max_steps=1, scan_batches="always").model.state_dict()
    assert all(torch.equal(before[name], scanned[name]) for name in before)

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FakeObjective, "forward", out_of_memory)
    with pytest.raises(UserError, match=r"a batch of 3 utterances.*does not fit.*--max-duration"):
        train(max_steps=1, scan_batches="always")


def test_a_largest_batch_without_utterances_is_not_tried(train, monkeypatch):
    from fake_run import FakeObjective, Utterances

    def tried(self, batch, batch_idx_train, forward=FakeObjective.forward):
        assert len(batch), "as a model would say"
        return forward(self, batch, batch_idx_train)

    monkeypatch.setattr(FakeObjective, "forward", tried)
    data = FakeData()
    data.hardest_batches = lambda: list(Utterances([(0, []), (1, [1, 2])]))
    assert train(data, max_steps=1, scan_batches="always").state.step == 1


def test_a_failing_batch_is_saved_before_its_error_passes(tmp_path, train, monkeypatch):
    from fake_run import FakeModel

    def fail(*_):
        raise ValueError("shapes do not match")

    monkeypatch.setattr(FakeModel, "forward", fail)
    with pytest.raises(ValueError, match="shapes"):
        train(max_steps=3)
    assert "bad-model-0.pt" in files(tmp_path)
    assert files(tmp_path, "batch-0-0.pt")


@pytest.mark.parametrize("port", [0, 99999])
def test_a_port_that_there_is_not_is_refused(port):
    with pytest.raises(UserError, match=f"`--master-port` must be from 1 to 65535, but is {port}"):
        fake_config("x", {"master_port": port})


def test_fp16_on_a_cpu_is_named(train, caplog):
    train(max_steps=3, use_fp16=True)
    assert caplog.text.count("`--use-fp16` has no effect on a CPU") == 1
    with pytest.raises(UserError, match="--use-fp16"):
        fake_config("x", {"use_fp16": True, "use_bf16": True})
