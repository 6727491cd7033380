import os
import random

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Gloo must find the loopback interface on machines without a resolvable host name.
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import pytest
import torch

# Without a GPU Triton's interpreter runs the kernels; it has to be chosen before Triton is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    torch.manual_seed(0)
