"""Models that leave the house: TorchScript, ONNX and safetensors files, each checked before it gets its name."""
