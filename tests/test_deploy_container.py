"""The bytes of packed files: what is written is read, and damaged and hostile files are named, never crash and take no memory."""

import copy
import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import packed_files
import pytest
import safetensors.numpy
from packed_files import changed, refuses, sealed, taken_apart, tiny_graph

from bnnlib import deploy
from bnnlib.deploy import DeployError, container

good = packed_files.good

ROOT = Path(__file__).parents[1]


def test_a_graph_there_and_back(good):
    graph, about = deploy.read_graph(good)
    first = tiny_graph()
    assert graph.to_json() == first.to_json()
    assert graph.tensors.keys() == first.tensors.keys()
    for name, array in first.tensors.items():
        assert graph.tensors[name].dtype == array.dtype and np.array_equal(graph.tensors[name], array)
    assert about == {"format": 3, "recipe": "net", "real": "bfloat16, float32, int8"}
    again = deploy.save(graph, good.with_name("again.safetensors"), about=about)
    assert again.read_bytes() == good.read_bytes()


def test_safetensors_reads_it(good):
    """Another program sees the same tensors under their names; bf16 is marked as such."""
    raw = good.read_bytes()
    header, _, _ = taken_apart(good)
    assert header["e.weight"]["dtype"] == "BF16"
    graph = tiny_graph()
    with safetensors.safe_open(good, framework="pt") as file:
        assert set(file.keys()) == set(graph.tensors)
        for name, array in graph.tensors.items():
            if name != "e.weight":
                assert np.array_equal(file.get_tensor(name).numpy(), array)
    assert (8 + int.from_bytes(raw[:8], "little")) % 8 == 0
    for row in header.values():
        if "dtype" in row:
            assert row["data_offsets"][0] % np.dtype(container.DTYPES[row["dtype"]]).itemsize == 0


def test_odd_shapes_and_types(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "scalar": np.array(3.5),
        "empty": np.zeros((3, 0, 2), np.int8),
        "strided": np.asfortranarray(rng.standard_normal((3, 5))).astype(np.float32),
        "flags": np.array([True, False]),
        "ü ☃": np.arange(3),
    }
    container.write(tmp_path / "x", {"model": 1}, tensors)
    about, back = container.read(tmp_path / "x")
    assert about == {"model": 1, "format": 3}
    for name, array in tensors.items():
        assert back[name].dtype == array.dtype and np.array_equal(back[name], array), name
        assert back[name].shape == array.shape
        assert back[name].flags.aligned
    for name in ("scalar", "strided"):
        assert np.array_equal(safetensors.numpy.load_file(tmp_path / "x")[name], tensors[name])
    with pytest.raises(DeployError, match="the tensor t is of complex64"):
        container.write(tmp_path / "y", {}, {"t": np.zeros(2, np.complex64)})
    assert not (tmp_path / "y").exists()


def test_every_flipped_bit_is_noticed(good):
    """Anywhere in header and data, one bit at a time and several bytes at once."""
    raw, rng, bad = good.read_bytes(), random.Random(0), good.with_name("bad.safetensors")
    start = 8 + int.from_bytes(raw[:8], "little")
    for place in [*range(8), *rng.sample(range(8, start), 250), *rng.sample(range(start, len(raw)), 50)]:
        flipped = bytearray(raw)
        flipped[place] ^= 1 << rng.randrange(8)
        bad.write_bytes(flipped)
        refuses(bad)
    for _ in range(100):
        flipped = bytearray(raw)
        for _ in range(rng.choice((2, 5, 50))):
            flipped[rng.randrange(len(raw))] = rng.randrange(256)
        if flipped != raw:
            bad.write_bytes(flipped)
            refuses(bad)


def test_every_truncation_is_noticed(good):
    raw, bad = good.read_bytes(), good.with_name("bad.safetensors")
    for length in [*range(40), *range(40, len(raw), 13), *range(len(raw) - 9, len(raw))]:
        bad.write_bytes(raw[:length])
        refuses(bad, "is damaged")
    bad.write_bytes(raw + b"\0")
    refuses(bad, "bytes, and .* are there")


def tensor(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (tensor(shape=[2**40], offsets=[0, 2**42]), "begins at|takes? .* bytes, and"),
        (tensor(shape=[2**62, 2**62, 0], offsets=[0, 0]), None),
        (tensor(shape=[-1], offsets=[0, -4]), "are not whole numbers"),
        (tensor(shape=[True], offsets=[0, 4]), "are not whole numbers"),
        (tensor(shape=[1.0], offsets=[0, 4]), "are not whole numbers"),
        (tensor(shape=[2**70], offsets=[0, 4]), "are not whole numbers"),
        (tensor(shape=[1] * 9), "9 dimensions"),
        (tensor(offsets=[4, 0]), "does not take -4 bytes"),
        (tensor(offsets=[0]), "not two offsets"),
        (tensor(shape="1"), "are not whole numbers"),
        (tensor(dtype="F8"), "unknown type 'F8'"),
        (tensor(dtype=["F32"]), "unknown type"),
        ({**tensor(), "more": 1}, "other fields"),
        ({"dtype": "F32"}, "other fields"),
        (None, "other fields"),
    ],
)
def test_a_tensor_that_cannot_be(good, row, message):
    refuses(changed(good, lambda header, document: header.update(more_weight=row)), message)


def test_tensors_that_overlap_or_leave_holes(good):
    def shift(by):
        def change(header, document):
            row = header["c.by"]
            row["data_offsets"] = [n + by for n in row["data_offsets"]]

        return change

    for by in (-4, 4, 10**15, -(2**62)):
        refuses(changed(good, shift(by)), "begins at|whole numbers|take .* bytes")

    def same(header, document):
        header["a.scale"]["data_offsets"] = header["a.bias"]["data_offsets"]

    refuses(changed(good, same), "begins at")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "cannot hold a header"),
        ("[]", "a list"),
        ("{}", "not one of bnnlib's"),
        ('{"__metadata__":{"bnnlib":"{}"}}', "format None"),
        ('{"__metadata__":{"bnnlib":"{\\"format\\":2}"}}', "checksum is missing"),
        ('{"__metadata__":{"bnnlib":"{\\"format\\":99}"}}', "format 99, this version reads 1 to 3"),
        ('{"__metadata__":{"bnnlib":"{\\"format\\":1,\\"format\\":1}"}}', "'format' stands there twice"),
        ('{"__metadata__":{"bnnlib":"{}"},"__metadata__":{"bnnlib":"{}"}}', "stands there twice"),
        ('{"__metadata__":{"bnnlib":"{\\"format\\":NaN}"}}', "NaN is no JSON"),
        ('{"__metadata__":{"bnnlib":"%s"}}' % ("[" * 200_000), "nested too deeply"),
        ("[" * 500_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"__metadata__":{"bnnlib":7}}', "not one of bnnlib's"),
        ('{"__metadata__":null}', "not one of bnnlib's"),
        ('{"__metadata__":{"bnnlib":"{\\"format\\":%s}"}}' % ("9" * 5000), "is damaged"),
        ('{"__metadata__":{"bnnlib":"{\\"format\\":1e999}"}}', "format inf"),
        ('{"\\ud800":1}', None),
    ],
)
def test_a_header_that_cannot_be(tmp_path, header, message):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(sealed(header))
    refuses(bad, message)


def test_a_header_length_that_lies(good):
    raw, bad = good.read_bytes(), good.with_name("bad.safetensors")
    for length in (0, 1, len(raw), len(raw) - 8, 2**31, 2**63, 2**64 - 1):
        bad.write_bytes(length.to_bytes(8, "little") + raw[8:])
        refuses(bad, "is damaged|not one of bnnlib's")


def test_hostile_files_take_no_memory(good):
    """In a process that may have 400 MB more than it has when it begins; nothing but DeployError comes of it."""
    folder = good.parent / "hostile"
    folder.mkdir()
    header, document, data = taken_apart(good)

    def put(name, header, data=b""):
        (folder / name).write_bytes(sealed(header, data))

    def with_document(document):
        return {**header, "__metadata__": {"bnnlib": json.dumps(document), "sha256": "0" * 64}}

    huge = copy.deepcopy(document)
    huge["graph"]["slots"] |= {f"s{i}": ["float32", 2**10, 2**10, 2**10] for i in range(1000)}
    put("slots", with_document(huge), data)
    wide = copy.deepcopy(document)
    wide["graph"]["ops"].insert(0, {
        "kind": "map", "inputs": ["images"], "attributes": {"repeat": 2**24}, "constants": {},
        "stages": [{"op": "store", "slot": "wide"}], "name": "",
    })  # fmt: skip
    wide["graph"]["slots"]["wide"] = ["float32", 6, 6, 2**25]
    put("map", with_document(wide), data)
    put("shape", {**header, "t": tensor(shape=[2**40], offsets=[len(data), len(data) + 2**42])}, data)
    put("deep", "[" * 3_000_000)
    put("objects", '{"a":[' + "{}," * 1_000_000 + "0]}")
    (folder / "length").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with open(folder / "sparse", "wb") as file:  # 100 GB that take no room on the disk
        file.write((2).to_bytes(8, "little") + b"{}")
        file.truncate(100 * 10**9)
    with open(folder / "sparse-2", "wb") as file:  # 3 GB: within what a file may be, but not what this process may
        file.write((2).to_bytes(8, "little") + b"{}")
        file.truncate(3 * 10**9)
    script = """
import resource, sys
from pathlib import Path
from bnnlib.deploy import files
from bnnlib.deploy.container import DeployError
assert "torch" not in sys.modules
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 400 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        files.read_graph(path)
    except DeployError as error:
        print(path.name, str(error)[:150])
print("all")
"""
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines.pop() == "all"
    assert [line.split()[0] for line in lines] == sorted(path.name for path in folder.iterdir())


def test_not_files(tmp_path):
    refuses(tmp_path, "cannot be read")
    refuses(tmp_path / "none", "no packed model")
    refuses(Path("/dev/null"), "no regular file")
    with pytest.raises(DeployError, match="null byte"):
        deploy.read_graph(Path("a\0b"))
    os.mkfifo(tmp_path / "pipe")
    refuses(tmp_path / "pipe", "no regular file")
    for given in (b"bytes of a file", io.BytesIO(), None):
        with pytest.raises(DeployError, match=f"read from the path of its file, got a {type(given).__name__}$"):
            deploy.load(given)
