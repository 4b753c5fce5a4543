"""What pyproject.toml cannot say: the kernels' sources, which lie beside the library, are part of its wheel."""

from pathlib import Path

from setuptools import find_packages, setup

KERNELS = Path("kernels")
FOLDERS = ["", *sorted(p.name for p in KERNELS.iterdir() if p.is_dir() and not p.name.startswith(("_", ".")))]
NATIVE = {".".join(["bnnlib.kernels", *filter(None, [name])]): str(KERNELS / name) for name in FOLDERS}

setup(
    packages=[*find_packages(include=["bnnlib*"]), *NATIVE],
    package_dir=NATIVE,
    package_data={name: ["*.cpp", "*.h", "*.inl", "*.cu", "*.cuh"] for name in NATIVE}
    | {
        "bnnlib.recipes": ["*.yaml", "*/*.yaml"],
        "bnnlib.book.pages": ["*.js"],
        "bnnlib.book.studies": ["*.js"],
    },
)
