"""The bytes of packed files: that damaged and hostile ones are named, never crash and never take memory; that the page
of the book describes them."""

import copy
import hashlib
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from bnnlib import deploy
from bnnlib.deploy import DeployError, container
from bnnlib.deploy.graph import Graph, Op, Slot

ROOT = Path(__file__).parents[1]


def conv(kernel=1, padding=0, **more):
    return {
        "kernel": [kernel] * 2, "stride": [1, 1], "padding": [padding] * 2, "dilation": [1, 1], "groups": 1, **more
    }  # fmt: skip


def tiny_graph(seed=0) -> Graph:
    """2x6x6 images -> 4 logits, every way to store weights: real conv - sign - binary conv with thresholds - binary conv
    - real layers in int8 and bf16."""
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    bits = lambda o, k: np.packbits(rng.random((o, k)) < 0.5, axis=1, bitorder="little")  # noqa: E731
    tensors = {
        "a.weight": normal(5, 3, 3, 2),
        "a.scale": normal(5),
        "a.bias": normal(5),
        "a.low": normal(5),
        "a.high": np.full(5, np.inf, np.float32),
        "b.weight": bits(7, 45),
        "b.threshold": rng.integers(-9, 9, 7).astype(np.int32),
        "b.flip": np.array([0b0100110], np.uint8),
        "c.weight": bits(9, 63),
        "c.by": normal(9),
        "d.weight": rng.integers(-127, 127, (4, 1, 1, 9)).astype(np.int8),
        "d.scale": normal(4) ** 2,
        "e.weight": (normal(4, 1, 1, 4).view(np.uint32) >> 16).astype(np.uint16),
    }
    slots = {
        "images": Slot("float32", (6, 6, 2)),
        "one": Slot("bits", (6, 6, 5)),
        "two": Slot("bits", (3, 3, 7)),
        "three": Slot("float32", (1, 1, 9)),
        "four": Slot("float32", (1, 1, 4)),
        "logits": Slot("float32", (1, 1, 4)),
    }
    threshold = {"op": "threshold", "threshold": "b.threshold", "flip": "b.flip", "pool": 2, "slot": "two"}
    ops = [
        Op("real_conv", ["images"], conv(3, 1, weights="float32"), {"weight": "a.weight"}, [
            {"op": "affine", "scale": "a.scale", "bias": "a.bias", "fused": False},
            {"op": "sign", "low": "a.low", "high": "a.high", "slot": "one"},
        ], "a"),
        Op("binary_conv", ["one"], conv(3, 1), {"weight": "b.weight"}, [threshold], "b"),
        Op("binary_conv", ["two"], conv(3), {"weight": "c.weight"}, [
            {"op": "scale", "by": "c.by"}, {"op": "relu"}, {"op": "store", "slot": "three"},
        ], "c"),
        Op("real_conv", ["three"], conv(weights="int8"), {"weight": "d.weight", "scale": "d.scale"}, [
            {"op": "clamp", "low": -1e9, "high": 1e9}, {"op": "store", "slot": "four"},
        ], "d"),
        Op("real_conv", ["four"], conv(weights="bfloat16"), {"weight": "e.weight"}, [
            {"op": "residual", "slot": "four"}, {"op": "store", "slot": "logits"},
        ], "e"),
    ]  # fmt: skip
    return Graph(["images"], ["logits"], slots, ops, tensors)


@pytest.fixture
def good(tmp_path):
    return deploy.save(tiny_graph(), tmp_path / "good.safetensors", about={"recipe": "net"})


def sealed(header: dict | str, data: bytes = b"") -> bytes:
    """A file with this header and its right checksum, whatever else is wrong with it."""
    text = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    raw = bytearray(len(text.encode()).to_bytes(8, "little") + text.encode() + data)
    if match := re.search(rb'"sha256":"(0{64})"', raw):
        raw[slice(*match.span(1))] = hashlib.sha256(raw).hexdigest().encode()
    return bytes(raw)


def taken_apart(path: Path) -> tuple[dict, dict, bytes]:
    """(header, document, data)."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    return header, json.loads(header["__metadata__"]["bnnlib"]), raw[start:]


def changed(path: Path, change) -> Path:
    """The file with header and document changed by ``change(header, document)``, sealed anew."""
    header, document, data = taken_apart(path)
    change(header, document)
    header["__metadata__"] = {"bnnlib": json.dumps(document), "sha256": "0" * 64}
    bad = path.with_name("bad.safetensors")
    bad.write_bytes(sealed(header, data))
    return bad


def refuses(path, message=None):
    with pytest.raises(DeployError, match=message) as caught:
        deploy.read_graph(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


# ---- there and back ------------------------------------------------------------------------------------------


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


def test_parts_in_pytorch_are_not_saved(tmp_path):
    graph = tiny_graph()
    graph.ops[2] = Op("torch", ["two"], {"module": "my.layer"}, {}, [{"op": "store", "slot": "three"}])
    with pytest.raises(DeployError, match="run in PyTorch and cannot be in a file: my.layer"):
        deploy.save(graph, tmp_path / "x")


# ---- damage --------------------------------------------------------------------------------------------------


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


# ---- malice: the checksum is right -----------------------------------------------------------------------------


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
    def shift(by, grow=0):
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


def operation(position, **fields):
    return lambda header, document: document["graph"]["ops"][position].update(fields)


def with_graph(change):
    return lambda header, document: change(document["graph"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_graph(lambda g: g.update(version=3)), "version 3"),
        (with_graph(lambda g: g.update(code="import os")), "has fields"),
        (with_graph(lambda g: g.pop("slots")), "has fields"),
        (with_graph(lambda g: g.update(slots=[])), "not a graph"),
        (with_graph(lambda g: g.update(ops=7)), "not a graph"),
        (with_graph(lambda g: g.update(inputs=[])), "not written before"),
        (with_graph(lambda g: g.update(outputs=["nowhere"])), "never written"),
        (with_graph(lambda g: g.update(outputs=2 * g["outputs"])), "is named twice"),
        (with_graph(lambda g: g.update(inputs=2 * g["inputs"])), "is named twice"),
        (with_graph(lambda g: g["ops"].reverse()), "not written before"),
        (with_graph(lambda g: g["ops"].append(g["ops"][1])), "written already"),
        (with_graph(lambda g: g["ops"][0].update(inputs=["logits"])), "not written before"),  # a cycle
        (with_graph(lambda g: g["slots"].update(images=["float32", 2**20, 2**20, 2])), "too large"),
        (with_graph(lambda g: g["slots"].update(images=["float32", 6, 6, 3])), None),
        (with_graph(lambda g: g["slots"].update(two=["bits", 3, 3, 2**20])), "writes slot two"),
        (with_graph(lambda g: g["slots"].update(huge=["float32", 2**14, 2**14, 7])), "activations take"),
        (with_graph(lambda g: g["slots"].update(images=["bfloat16", 6, 6, 2])), "unknown kind"),
        (with_graph(lambda g: g["slots"].update(images=["float32", True, 6, 2])), "three sizes"),
        (operation(0, kind="eval"), "unknown operation"),
        (operation(0, kind=["real_conv"]), "operation 0"),
        (operation(0, extra=1), "has fields"),
        (operation(0, inputs=[["images"]]), "not written before"),
        (operation(0, constants={"weight": "b.weight"}), None),
        (operation(0, constants={"weight": {}}), "operation 0"),
        (operation(0, attributes=conv(3, 1, weights="int4")), "weights is 'int4'"),
        (operation(0, attributes=conv(2**30, 2**30, weights="float32")), "operation 0"),
        (operation(0, attributes=conv(3, -1, weights="float32")), "padding is"),
        (operation(1, attributes={**conv(3, 1), "groups": 0}), "groups"),
        (operation(1, attributes={**conv(3, 1), "stride": [0, 1]}), "stride is"),
        (operation(1, stages=[]), "has no stages"),
        (operation(1, stages=[{"op": "store", "slot": "two"}]), "slot two"),
        (operation(2, kind="torch", attributes={"module": "os.system"}, constants={}), None),
        (operation(2, stages=[{"op": "sale", "by": "c.by"}]), "unknown stage 'sale'"),
        (lambda header, document: document.update(graph=None), "not a graph"),
        (lambda header, document: document.update(model={"name": "mlp", "options": {}}), "both a trained model"),
        (lambda header, document: document.pop("graph"), "not a packed network"),
    ],
)
def test_a_graph_that_cannot_be(good, change, message):
    refuses(changed(good, change), message)


def test_constants_that_do_not_fit(good):
    def drop(header, document):  # of the last tensor, so that there are no holes
        document["graph"]["ops"][2]["stages"][0]["by"] = "a.bias"

    refuses(changed(good, drop), r"the constant a.bias is float32 \[5\]")
    graph = tiny_graph()
    graph.tensors["extra"] = np.zeros(3, np.float32)
    path = deploy.save(graph, good.with_name("extra.safetensors"))
    refuses(path, "does not use: extra")
    graph = tiny_graph()
    graph.tensors["b.weight"][3, -1] |= 0x80
    refuses(deploy.save(graph, good.with_name("beyond.safetensors")), "weights of b have bits beyond")


def test_random_changes_of_the_json_load_or_are_named(good):
    """Values swapped, deleted, blown up, at random places of header and document: a graph that validates, or a line."""
    rng, strange = random.Random(0), [None, -1, 0, 2**31, 2**64, 1.5, "", "x", [], {}, True, [[]], {"op": 1}]

    def places(node, trail=()):
        if isinstance(node, dict | list):
            for key in node if isinstance(node, dict) else range(len(node)):
                yield (*trail, key)
                yield from places(node[key], (*trail, key))

    header, document, data = taken_apart(good)
    refused = 0
    for _ in range(400):
        whole = copy.deepcopy({"header": header, "document": document})
        for _ in range(rng.choice((1, 1, 2))):
            *way, key = rng.choice([p for p in places(whole) if len(p) > 1 and p[:2] != ("header", "__metadata__")])
            node = whole
            for step in way:
                node = node[step]
            if isinstance(node, dict) and rng.random() < 0.2:
                del node[key]
            else:
                node[key] = copy.deepcopy(rng.choice(strange))
        whole["header"]["__metadata__"] = {"bnnlib": json.dumps(whole["document"]), "sha256": "0" * 64}
        bad = good.with_name("bad.safetensors")
        bad.write_bytes(sealed(whole["header"], data))
        try:
            graph, _ = deploy.read_graph(bad)
            graph.validate()
        except DeployError as error:
            assert str(bad) in str(error)
            refused += 1
    assert refused > 300


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


# ---- the page of the book --------------------------------------------------------------------------------------

PAGE = (ROOT / "book" / "file-format.md").read_text()


def page_code() -> dict:
    """What the page's Python defines, executed as it stands there."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    found: dict = {}
    for block in blocks:
        exec(block, found)
    reader = [line for line in blocks[0].partition("def signs")[0].splitlines() if line.strip()]
    assert len(reader) <= 25
    return found


def test_the_pages_reader_reads_every_file(good):
    read = page_code()["read"]
    for path in [good, *sorted(deploy.FOLDER.glob("*.safetensors"))]:
        document, tensors = read(path)
        about, expected = container.read(path)
        assert document == about
        assert tensors.keys() == expected.keys()
        for name, array in expected.items():
            if array.dtype == np.uint16:
                array = (array.astype(np.uint32) << 16).view(np.float32)
            assert np.array_equal(tensors[name], array) and tensors[name].dtype == array.dtype
    raw = bytearray(good.read_bytes())
    raw[-3] ^= 4
    good.write_bytes(raw)
    with pytest.raises(AssertionError, match="damaged"):
        read(good)


def test_the_pages_network_gives_the_models_answers():
    import torch

    path = deploy.FOLDER / "s3-mlp.safetensors"
    x = np.random.default_rng(0).random((50, 1, 28, 28), np.float32)
    with torch.no_grad():
        expected = deploy.load(path)(torch.from_numpy(x)).numpy()
    assert np.allclose(page_code()["s3_mlp"](path, x), expected, atol=1e-4)


def test_the_page_names_every_operation_and_field():
    from bnnlib.deploy import graph

    for name, (_, attributes) in graph.OPERATIONS.items():
        assert f"| `{name}` |" in PAGE
        assert all(f"`{attribute}`" in PAGE for attribute in attributes)
    for name, (constants, others, _) in graph.STAGES.items():
        assert f"`{name}`" in PAGE
        assert all(f"`{field}`" in PAGE for field in (*constants, *others))
    for field in tiny_graph().to_json():
        assert f"`{field}`" in PAGE


# ---- malice within what a graph may say --------------------------------------------------------------------------


def vectors(operations, tensors, width=64):
    """A graph of ``operations(k, source, target)`` one after another on vectors of one width."""
    ops, slots = [], {"s0": Slot("float32", (1, 1, width))}
    for k, operation in enumerate(operations):
        slots[f"s{k + 1}"] = Slot("float32", (1, 1, width))
        ops.append(operation(f"s{k}", {"op": "store", "slot": f"s{k + 1}"}))
    return Graph(["s0"], [f"s{len(ops)}"], slots, ops, tensors)


def named_often(count=400, width=512):
    rng = np.random.default_rng(0)
    tensors = {"w": rng.standard_normal((width, 1, 1, width), np.float32) / width, "b": np.ones(width, np.float32)}
    stages = [{"op": "bias", "by": "b"}] * 3
    return vectors(
        [lambda s, store: Op("real_conv", [s], conv(weights="float32"), {"weight": "w"}, [*stages, store], "")] * count, tensors, width
    )


def test_a_constant_that_many_name_is_held_once(tmp_path):
    """400 layers of one weight: 420 MB, were each to hold its own."""
    from bnnlib.deploy import run

    path = deploy.save(named_often(), tmp_path / "often")
    runner = run.load(path)
    assert runner.memory_bytes(1)[0] < 10e6
    few = named_often(3)
    x = np.random.default_rng(1).standard_normal((2, 512, 1, 1), np.float32)
    y = x[:, :, 0, 0].astype(np.float64)
    for _ in range(3):
        y = y @ few.tensors["w"][:, 0, 0].T.astype(np.float64) + 3
    assert np.allclose(run.Runner(few)(x), y, atol=1e-4)
    assert np.array_equal(run.Runner(few, take=True)(x), run.Runner(named_often(3))(x))


def test_one_weight_in_two_geometries(tmp_path):
    """Shared where it is used alike, prepared again where it is not."""
    from bnnlib.deploy import run

    rng = np.random.default_rng(0)
    tensors = {"w": np.packbits(rng.random((64, 64)) < 0.5, axis=1, bitorder="little")}
    slots = {"x": Slot("float32", (8, 8, 1)), "a": Slot("float32", (1, 1, 64)), "y": Slot("float32", (1, 1, 64)), "z": Slot("float32", (1, 1, 64))}
    whole = {**conv(weights="bits"), "kernel": [8, 8]}
    ops = [
        Op("real_conv", ["x"], whole, {"weight": "w"}, [{"op": "store", "slot": "a"}]),
        Op("real_conv", ["a"], conv(weights="bits"), {"weight": "w"}, [{"op": "store", "slot": "y"}]),
        Op("real_conv", ["x"], whole, {"weight": "w"}, [{"op": "store", "slot": "z"}]),
    ]
    graph = Graph(["x"], ["a", "y", "z"], slots, ops, tensors)
    w = np.unpackbits(tensors["w"], axis=1, bitorder="little") * 2.0 - 1
    x = rng.standard_normal((1, 1, 8, 8), np.float32)
    a, y, z = (v.ravel() for v in run.Runner(graph).arrays([x]))
    assert np.allclose(a, w @ x.ravel(), atol=1e-3) and np.array_equal(a, z) and np.allclose(y, w @ a, atol=1e-2)


def expanding() -> Graph:
    """One-bit weights in groups of one channel, which take as many floats a bit as stand side by side."""
    width, tensors = 1 << 16, {}
    operations = []
    for k in range(30):
        tensors[f"w{k}"] = np.ones((width, 1), np.uint8)
        a = {**conv(weights="bits"), "groups": width}
        operations.append(lambda s, store, k=k, a=a: Op("real_conv", [s], a, {"weight": f"w{k}"}, [store], ""))
    return vectors(operations, tensors, width)


def long_sum() -> Graph:
    """A window almost all of which is padding."""
    tensors = {"w": np.zeros((1, 1100, 1000, 1), np.float32)}
    slots = {"x": Slot("float32", (1, 1, 1)), "y": Slot("float32", (1, 1, 1))}
    a = {**conv(weights="float32"), "kernel": [1100, 1000], "padding": [550, 500], "stride": [3, 3]}
    return Graph(["x"], ["y"], slots, [Op("real_conv", ["x"], a, {"weight": "w"}, [{"op": "store", "slot": "y"}])], tensors)


def many_classes() -> Graph:
    """A kernel so large that each of many places sees another part of it."""
    slots = {"x": Slot("bits", (99, 99, 1)), "y": Slot("float32", (99, 99, 64))}
    ops = [Op("binary_conv", ["x"], conv(99, 49), {"weight": "w"}, [{"op": "store", "slot": "y"}])]
    return Graph(["x"], ["y"], slots, ops, {"w": np.zeros((64, 1226), np.uint8)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (expanding, "when they are made ready to run"),
        (long_sum, "sums of 1100000 products"),
        (many_classes, "steps to be made ready"),
        (lambda: vectors([lambda s, store: Op("map", [s], {"repeat": 1}, {}, [store])] * 5000, {}), "5000 operations, more than"),
        (lambda: vectors([lambda s, store: Op("map", [s], {"repeat": 1}, {}, [{"op": "relu"}] * 20000 + [store])], {}), "20001 stages"),
        (lambda: vectors([lambda s, store: Op("map", [s], {"repeat": 1}, {}, [store])], {}, 1 << 23), "vectors take"),
    ],
)  # fmt: skip
def test_small_files_that_take_much_are_refused(tmp_path, make, message):
    refuses(deploy.save(make(), tmp_path / "x"), message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g["ops"][3]["stages"][0].update(high=10**400), "not a number of float32"),
        (lambda g: g["ops"][3]["stages"][0].update(high=10**39), "not a number of float32"),
        (lambda g: g["ops"][3]["stages"][0].update(low=True), "not a number of float32"),
        (lambda g: g["ops"][2].update(name=7), "its name is 7, not text"),
        (lambda g: g["ops"].append({**g["ops"][4], "kind": "map", "attributes": {"repeat": 1}, "constants": {"x": []}}), "has constants"),
    ],
)
def test_values_that_are_none(good, change, message):
    refuses(changed(good, with_graph(change)), message)


def test_a_clamp_of_any_whole_number_runs(good):
    from bnnlib.deploy import run

    path = changed(good, with_graph(lambda g: g["ops"][3]["stages"][0].update(low=-(10**20), high=10**20)))
    x = np.ones((1, 2, 6, 6), np.float32)
    assert np.array_equal(run.load(path)(x), run.load(good)(x))
