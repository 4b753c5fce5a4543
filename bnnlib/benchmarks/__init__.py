"""Speed and memory, measured: kernels, whole networks, ONNX Runtime as a rival, and agreement of packed networks with
PyTorch."""


class BenchError(Exception):
    """A record that cannot be used, or a measurement that failed; the message says what to do."""
