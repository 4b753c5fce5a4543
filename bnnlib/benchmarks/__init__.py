"""Speed and memory, measured: kernels, whole networks, ONNX Runtime as a rival, and agreement of packed networks with
PyTorch."""
