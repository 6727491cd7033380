import pytest
from fake_run import FakeData, fake_config, make_trainer

from couloir.training.random_state import seed_everything


@pytest.fixture
def train(tmp_path):
    """Train in this process, in ``tmp_path/exp``; returns the trainer."""

    def run(data=None, **values):
        values = {"log_interval": 1, "valid_interval": 100, **values}
        seed_everything(1)
        trainer = make_trainer(fake_config(tmp_path / "exp", values), data or FakeData())
        trainer.fit()
        return trainer

    return run
