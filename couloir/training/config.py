"""Configuration of the trainer and of checkpoint averaging."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from couloir.config import flag_name, option
from couloir.errors import UserError, must_be

DEFAULT_EXP_DIR = Path("exp")
AT_LEAST_ONE = (
    "world_size",
    "num_epochs",
    "save_every_n",
    "keep_last_k",
    "average_period",
    "log_interval",
    "valid_interval",
    "start_epoch",
    "max_bad_batches",
    "grad_accumulation",
)
AT_LEAST_ZERO = (
    "max_steps",
    "time_budget_minutes",
    "start_batch",
    "schedule_batches",
    "save_last_every",
    "max_rollbacks",
    "batch_count_offset",
    "num_threads",
    "seed",
)


@dataclass(frozen=True)
class TrainerConfig:
    """Trainer. How long, where to, with what precision; the flags are icefall's where it has one."""

    exp_dir: Path = option(DEFAULT_EXP_DIR, "Run directory: checkpoints, logs, the resolved configuration.")
    seed: int = option(42, "One seed gives one run.")
    device: str = option("auto", "auto is the GPU when there is one.", choices=("auto", "cpu", "cuda"))
    num_threads: int = option(
        0, "Threads per process on CPU; 0 shares the cores among the processes.", unit="threads", rare=True
    )

    world_size: int = option(
        1, "Processes to start on this machine, one per GPU. Under torchrun or srun it is theirs.", unit="processes"
    )
    master_port: int = option(
        12354, "Port on which the processes of one machine find each other; any other where it is taken.", rare=True
    )

    num_epochs: int = option(30, "Passes over the training data.", unit="epochs")
    max_steps: int = option(0, "Stop after that many batches; 0 sets no bound.", unit="batches")
    time_budget_minutes: float = option(
        0.0, "Stop after that much time, earlier parts of a resumed run included; 0 sets no bound.", unit="min"
    )
    final_decay: float = option(
        0.2, "Last part of a run bounded by steps or time in which the learning rate falls linearly to zero.", rare=True
    )
    schedule_batches: int = option(
        0,
        "Batches that the schedules (learning rate, warm-ups, dropouts, skips) are made for: a run that --max-steps or "
        "--time-budget-minutes bounds goes through them once, however many batches it reaches. 0: batch by batch, as "
        "without such a bound.",
        unit="batches",
        rare=True,
    )
    batch_count_scale: float = option(
        1.0, "Multiplies the batch count that drives dropout, skips, balancers and whitening; above 1 for short runs."
    )
    batch_count_offset: float = option(
        0.0,
        "Added to that batch count; finetune.py: 100000, for a model that is past its schedules.",
        unit="batches",
        rare=True,
    )

    start_epoch: int = option(1, "Resume from epoch-(N-1).pt when more than 1, as --start-batch does.")
    start_batch: int = option(
        0,
        "Resume from checkpoint-N.pt when more than 0, later ones put aside; the same again goes on from the newest.",
        unit="batches",
    )
    resume: str = option(
        "auto", "auto goes on from the newest whole checkpoint of --exp-dir, if any.", choices=("auto", "none")
    )

    save_every_n: int = option(4000, "Batches between checkpoint-N.pt files.", unit="batches")
    keep_last_k: int = option(30, "Of the checkpoint-N.pt files, the newest that are kept.", unit="files")
    save_last_every: int = option(
        1000,
        "Batches between writes of last.pt, for resume and recovery; 0: only at a stop.",
        unit="batches",
        rare=True,
    )
    save_last_minutes: float = option(10.0, "Longest time between writes of last.pt.", unit="min", rare=True)
    average_period: int = option(
        200, "Batches between updates of the running model average.", unit="batches", rare=True
    )
    log_interval: int = option(50, "Batches between log lines.", unit="batches", rare=True)
    valid_interval: int = option(3000, "Batches between validations; one more follows each epoch.", unit="batches")

    use_fp16: bool = option(False, "Half precision with loss scaling, on a GPU.")
    use_bf16: bool = option(False, "bfloat16 without loss scaling.")
    grad_accumulation: float = option(
        1, "Batches whose gradients make one step; the loss is divided by it.", unit="batches"
    )

    max_bad_batches: int = option(
        3,
        "Batches (with --grad-accumulation, steps) in a row with a non-finite loss or gradient after which the run "
        "goes back to its last checkpoint.",
        unit="batches",
        rare=True,
    )
    max_rollbacks: int = option(3, "Times that a run goes back before it gives up.", unit="times", rare=True)
    rollback_lr_scale: float = option(0.5, "What the learning rate is multiplied with at each return.", rare=True)

    scan_batches: str = option(
        "auto",
        "Try the largest batches before training; auto does so on a GPU, where running out of memory can be caught.",
        choices=("auto", "always", "never"),
        rare=True,
    )
    inf_check: bool = option(False, "Report the first module whose output or gradient is not finite.", rare=True)
    print_diagnostics: bool = option(
        False, "Print statistics of every module's outputs over six batches, and stop.", rare=True
    )

    tensorboard: bool = option(True, "Write EXP_DIR/tensorboard.", rare=True)
    wandb: bool = option(False, "Log to Weights & Biases where it is installed.", hidden=True)
    wandb_project: str = option("couloir", "Project name there.", hidden=True)
    wandb_run: str = option("", "Run name there.", hidden=True)

    def __post_init__(self) -> None:
        if self.use_fp16 and self.use_bf16:
            raise UserError("`--use-fp16` and `--use-bf16` contradict each other; leave one out")
        if self.start_batch > 0 and self.start_epoch > 1:
            raise UserError("`--start-batch` and `--start-epoch` name two checkpoints; leave one out")
        if (self.start_batch > 0 or self.start_epoch > 1) and self.resume == "none":
            raise UserError("`--resume none` contradicts `--start-batch` and `--start-epoch`; leave it out")
        for name in AT_LEAST_ONE:
            self._check(name, "at least 1", getattr(self, name) >= 1)
        for name in AT_LEAST_ZERO:
            self._check(name, "at least 0", getattr(self, name) >= 0)
        self._check("grad_accumulation", "a whole number", self.grad_accumulation == int(self.grad_accumulation))
        self._check("master_port", "from 1 to 65535", 1 <= self.master_port <= 65535)
        self._check("save_last_minutes", "more than 0", self.save_last_minutes > 0)
        self._check("batch_count_scale", "more than 0", self.batch_count_scale > 0)
        self._check("rollback_lr_scale", "more than 0 and less than 1", 0 < self.rollback_lr_scale < 1)
        self._check("final_decay", "from 0 to 1", 0 <= self.final_decay <= 1)

    def _check(self, field: str, expected: str, holds: bool) -> None:
        if not holds:
            raise must_be(flag_name(field), expected, getattr(self, field))


@dataclass(frozen=True)
class AveragingConfig:
    """Averaging. Which checkpoints of the run make the model; the newest, when none is named."""

    epoch: int = option(0, "Average up to epoch-N.pt; 0: see --iter.", unit="epochs")
    iter: int = option(0, "Average up to checkpoint-N.pt; 0 without --epoch: up to the newest.", unit="batches")
    avg: int = option(
        0,
        "Checkpoints that the average spans; 0: about the last quarter of the run, or half of its final decay.",
        unit="checkpoints",
    )
    use_averaged_model: bool = option(
        True, "Average all weights between two checkpoints by the running average saved in them."
    )

    def __post_init__(self) -> None:
        if self.epoch > 0 and self.iter > 0:
            raise UserError("`--epoch` and `--iter` name two checkpoints; leave one out")
        for name in ("epoch", "iter", "avg"):
            if getattr(self, name) < 0:
                raise must_be(f"--{name}", "at least 0", getattr(self, name))
