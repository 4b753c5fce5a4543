"""The book's page on packed files: its reader reads every file, its network gives the model's answers, and it names every field."""

import re
from pathlib import Path

import numpy as np
import packed_files
import pytest
from packed_files import tiny_graph

from bnnlib import deploy
from bnnlib.deploy import container

good = packed_files.good

ROOT = Path(__file__).parents[1]
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
    from bnnlib.deploy import operations

    for name, (_, attributes) in operations.OPERATIONS.items():
        assert f"| `{name}` |" in PAGE
        assert all(f"`{attribute}`" in PAGE for attribute in attributes)
    for name, (constants, others, _) in operations.STAGES.items():
        assert f"`{name}`" in PAGE
        assert all(f"`{field}`" in PAGE for field in (*constants, *others))
    for field in tiny_graph().to_json():
        assert f"`{field}`" in PAGE
