"""The kernels without Python: fuzzed under sanitizers, AVX-512 by emulation, NEON cross-compiled and run
under QEMU.

Each build is the same ``tests/kernels/fuzz.cpp`` around the same headers. What a machine lacks is skipped,
except where
``BNN_REQUIRE_TOOLS`` is set (``.ci/run`` does), which makes a missing tool a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from toolchains import for_arm, need

ROOT = Path(__file__).resolve().parents[1]
FUZZ = ROOT / "tests" / "kernels" / "fuzz.cpp"
CASES, SEED = "40", "1"


def build(tmp_path: Path, compiler: list[str], *flags: str) -> Path:
    program = tmp_path / "fuzz"
    done = subprocess.run(
        [*compiler, "-std=c++17", *flags, f"-I{ROOT / 'kernels'}", str(FUZZ), "-o", str(program)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return program


def run(command: list[str], **environment: str) -> dict[str, str]:
    """Runs the fuzz; what it says of each variant."""
    done = subprocess.run(
        [*command, CASES, SEED], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


def test_under_address_and_undefined_behaviour_sanitizers(tmp_path):
    need(shutil.which("g++") is not None, "g++")
    flags = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() {}")
    linked = subprocess.run(["g++", *flags, str(probe), "-o", str(tmp_path / "probe")], capture_output=True)
    need(linked.returncode == 0, "libasan and libubsan")
    said = run(
        [
            str(
                build(
                    tmp_path,
                    ["g++"],
                    *flags,
                    "-Wall",
                    "-Werror",
                    "-Wno-uninitialized",
                    "-Wno-maybe-uninitialized",
                )
            )
        ]
    )
    assert said["reference"] == said["scalar"] == f"{CASES} cases equal"
    assert set(said.values()) <= {f"{CASES} cases equal", "not on this CPU"}


def test_avx512_by_emulation(tmp_path):
    need(shutil.which("g++") is not None, "g++")
    need(Path("/usr/include/simde/x86/avx512.h").exists(), "SIMDe (Debian: libsimde-dev)")
    said = run([str(build(tmp_path, ["g++"], "-O1", "-DBNN_EMULATE", "-Wno-psabi"))])
    for variant in ("amx", "avx512vpopcnt", "avx512bw", "avx2", "gradients amx", "gradients avx512", "gradients avx2"):
        assert said[variant] == f"{CASES} cases equal"


def test_neon_under_qemu(tmp_path):
    qemu, compiler = for_arm()
    said = run([qemu, str(build(tmp_path, compiler, "-O2", "-static"))])
    assert said["neon"] == said["scalar"] == f"{CASES} cases equal"
