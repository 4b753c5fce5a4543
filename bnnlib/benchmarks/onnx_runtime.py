"""ONNX Runtime as a contender of ``bnnlib.bench``, in a process of its own.

Its thread pool and PyTorch's would fight over the cores in one process, and slow PyTorch's side several times;
so ``python -m bnnlib.benchmarks.onnx_runtime THREADS`` waits on its standard input for its turn, and times its own calls.
:class:`Peer` is the other end of the pipe. Needs the extra ``bench`` (``pip install -e ".[bench]"``).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bnnlib.benchmarks import BenchError, workers
from bnnlib.training import memory

Layer = tuple[int, int, int, int]  # channels in, channels out, kernel, side


def missing() -> str:
    """What is not installed here, or nothing."""
    absent = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    return " and ".join(absent)


def sessions(layer: Layer, batch: int, threads: int) -> dict[str, Callable[[], object]]:
    """One layer as float32 and as int8 (unsigned activations, signed weights), inputs bound beforehand.

    The int8 layer takes and gives channels last: in a whole network the runtime arranges that by itself, in a
    net of one layer it would add two transpositions. Each call returns the result as an ``OrtValue``.
    """
    import numpy as np
    import onnxruntime
    from onnx import helper, numpy_helper

    c, o, k, side = layer
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, c, side, side), dtype=np.float32)
    w = random.standard_normal((o, c, k, k), dtype=np.float32)
    x8 = random.integers(0, 256, (batch, side, side, c), dtype=np.uint8)
    w8 = random.integers(-127, 128, w.shape, dtype=np.int8)
    pads = {"kernel_shape": [k, k], "pads": [k // 2] * 4}
    scales = {"xs": 0.05, "ws": 0.02, "ys": 1.0}
    constants = {n: np.float32(v) for n, v in scales.items()}
    constants |= {"xz": np.uint8(64), "wz": np.int8(0), "yz": np.uint8(128)}
    quantised = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"]

    def made(node, image, weight, constants=()) -> Callable[[], object]:
        kind = helper.np_dtype_to_tensor_dtype(image.dtype)
        shape = [batch, o, side, side] if image is x else [batch, side, side, o]
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info("x", kind, image.shape)],
            [helper.make_tensor_value_info("y", kind, shape)],
            [numpy_helper.from_array(np.asarray(v), n) for n, v in {"w": weight, **dict(constants)}.items()],
        )
        versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=versions, ir_version=9)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), _options(onnxruntime, threads), providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(image))
        empty = np.empty(shape, helper.tensor_dtype_to_np_dtype(kind))
        result = onnxruntime.OrtValue.ortvalue_from_numpy(empty)
        binding.bind_ortvalue_output("y", result)

        def call():
            session.run_with_iobinding(binding)
            return result

        return call

    conv = helper.make_node("Conv", ["x", "w"], ["y"], **pads)
    last = helper.make_node("QLinearConv", quantised, ["y"], domain="com.microsoft", channels_last=1, **pads)
    return {"onnx-fp32": made(conv, x, w), "onnx-int8": made(last, x8, w8, constants)}


def networks(
    path: Path, shape: tuple[int, int, int], batch: int, threads: int
) -> dict[str, Callable[[], object]]:
    """A network that takes ``images`` of ``shape``, as it is and in int8: statically quantised, unsigned
    activations and signed weights, a scale to an output channel, calibrated on random images (its accuracy means
    nothing, its speed does)."""
    import logging

    import numpy as np
    import onnxruntime
    from onnxruntime import quantization

    random = np.random.default_rng(0)
    small = path.with_suffix(".int8.onnx")
    if not small.exists():
        batches = iter([{"images": random.standard_normal((4, *shape), dtype=np.float32)} for _ in range(4)])

        class Reader(quantization.CalibrationDataReader):
            def get_next(self):
                return next(batches, None)

        logging.disable(logging.WARNING)
        kinds = {
            "activation_type": quantization.QuantType.QUInt8,
            "weight_type": quantization.QuantType.QInt8,
        }
        quantization.quantize_static(path, small, Reader(), per_channel=True, reduce_range=False, **kinds)
        logging.disable(logging.NOTSET)
    x = random.standard_normal((batch, *shape), dtype=np.float32)
    found: dict[str, Callable[[], object]] = {}
    for name, file in (("onnx-fp32", path), ("onnx-int8", small)):
        session = onnxruntime.InferenceSession(
            str(file), _options(onnxruntime, threads), providers=["CPUExecutionProvider"]
        )
        found[name] = lambda session=session: session.run(None, {"images": x})
    return found


def _options(onnxruntime, threads: int):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    # its threads may spin while it computes, not while others have their turn
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


class Remote:
    """A contender in the other process."""

    def __init__(self, peer: Peer, name: str):
        self.peer, self.name = peer, name

    def seconds(self, calls: int) -> float:
        """Time of ``calls`` calls, without the pipe's."""
        time.sleep(0.02)  # until this process's threads have stopped spinning for more work
        return self.peer.ask({"run": self.name, "calls": calls})["seconds"]


class Peer:
    """A process with ONNX Runtime, one thread for each of ``cpus``; a context manager."""

    def __init__(self, cpus: list[int]):
        self.process = workers.start(
            "bnnlib.benchmarks.onnx_runtime", str(len(cpus)), cpus=cpus, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait()

    def ask(self, question: dict) -> dict:
        """Its answer. Raises :class:`BenchError` where it died."""
        try:
            print(json.dumps(question), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise BenchError(f"the process with ONNX Runtime died at {question}; its words are above")
        return json.loads(answer)

    def contenders(self, layer: Layer, batch: int) -> dict[str, Remote]:
        names = self.ask({"layer": list(layer), "batch": batch})["names"]
        return {name: Remote(self, name) for name in names}

    def network(self, path: Path, shape: tuple[int, int, int], batch: int) -> dict[str, Remote]:
        """A whole network from an ONNX file, see :func:`networks`."""
        names = self.ask({"file": str(path), "shape": list(shape), "batch": batch})["names"]
        return {name: Remote(self, name) for name in names}

    def version(self) -> str:
        return self.ask({"version": True})["version"]


def serve(threads: int) -> None:
    """Answer questions, one JSON object a line, until there are no more."""
    memory.keep_freed()
    calls: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "layer" in question:
            calls = sessions(tuple(question["layer"]), question["batch"], threads)
            answer: dict = {"names": list(calls)}
        elif "file" in question:
            calls = networks(Path(question["file"]), tuple(question["shape"]), question["batch"], threads)
            answer = {"names": list(calls)}
        elif "run" in question:
            call = calls[question["run"]]
            call()  # wakes its threads
            started = time.perf_counter()
            for _ in range(question["calls"]):
                call()
            answer = {"seconds": time.perf_counter() - started}
        else:
            import onnxruntime

            answer = {"version": onnxruntime.__version__}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
