"""A small training for the tests of the batch scripts: slurm_run.py EXP_DIR JSON."""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

from fake_run import FakeData, fake_config, make_trainer

from couloir.errors import one_line_errors
from couloir.training.launch import launch

PAUSE_S = 0.15


class SlowData(FakeData):
    """Its batches take a while, so that a run is not over before a test looks."""

    def train_loader(self, *place):
        return _Slow(super().train_loader(*place))


class _Slow:
    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            time.sleep(PAUSE_S)
            yield batch


def worker(config):
    make_trainer(config, SlowData()).fit()


@one_line_errors
def main():
    config = fake_config(Path(sys.argv[1]), json.loads(sys.argv[2]))
    launch(worker, config, config.trainer)


if __name__ == "__main__":
    sys.exit(main())
