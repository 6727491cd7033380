"""A traced model has no length of its own: ONNX Runtime gives what torch gives, for other batches and silence."""

import pytest
import torch
from test_paraformer_model import CONFORMER, SANM, features, model_of

ort = pytest.importorskip("onnxruntime")


class Exported(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, speech, speech_lengths):
        found = self.model(speech, speech_lengths.long())
        return found.log_probs, found.token_num.int()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("config", [SANM, CONFORMER], ids=["sanm", "conformer"])
def test_onnx_runtime_gives_what_torch_gives(config, tmp_path):
    model, (feats, lens) = model_of(config).requires_grad_(False), features(config)
    path = tmp_path / "model.onnx"
    names = {"speech": {0: "batch", 1: "frames"}, "speech_lengths": {0: "batch"}}
    torch.onnx.export(
        Exported(model).eval(),
        (feats[:2, :73], torch.tensor([73, 50], dtype=torch.int32)),
        path,
        input_names=list(names),
        output_names=["logits", "token_num"],
        dynamic_axes={**names, "logits": {0: "batch", 1: "tokens"}, "token_num": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    session = ort.InferenceSession(path)
    for x, x_lens in ((feats, lens), (feats[1:2, :30], torch.tensor([30])), (feats[:2], torch.tensor([2, 0]))):
        log_probs, counts = session.run(None, {"speech": x.numpy(), "speech_lengths": x_lens.int().numpy()})
        expected = model(x, x_lens)
        assert counts.tolist() == expected.token_num.tolist()
        assert log_probs.shape == expected.log_probs.shape
        for item, count in enumerate(counts):
            close = {"atol": 5e-5, "rtol": 1e-5}  # two implementations in float32
            torch.testing.assert_close(
                torch.from_numpy(log_probs[item, :count]), expected.log_probs[item, :count], **close
            )
