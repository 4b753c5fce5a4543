"""What a record of the kernels says, for the terminal."""

from __future__ import annotations

from bnnlib.benchmarks import speed


def summary(record: dict) -> str:
    """What the record says, for the terminal: of each layer the best rival first, and its time over ours."""
    lines = []
    for run in record["runs"]:
        peaks = run["peaks"]
        lines.append(
            f"\n{run['threads']} thread(s), variant {run['variant']}, clock "
            + ", ".join(f"{hz / 1e9:.2f} GHz ({name})" for name, hz in speed.clocks(peaks).items())
        )
        lines += [f"  the clock by {n} differs: {f:.2f} of the chain's" for n, f in speed.clocks_that_differ(peaks).items()]
        lines += [f"  {unit['per_cycle']:7.1f} a cycle: {unit['what']}" for unit in peaks["units"].values()]
        lines.append("times over those of bits (best rival, then the best of each kind) and of floats, channels_last:")
        for r in run["layers"]:
            best = speed.best_rival(r)
            found = {one: speed.best_rival(r, one) for one in speed.RIVALS}
            lines.append(
                f"  {r['layer']:18} x{r['batch']:<3}{best:>14} {speed.ratio(r, best, 'bits')!s:22}"
                + "".join(f"{one} {speed.ratio(r, name, 'bits').median:.2f}  " for one, name in found.items() if name)
                + f"floats {speed.ratio(r, best, 'channels_last')!s:22}{r.get('bits_macs_per_cycle', '')} MAC/cycle"
            )
        if "gemms" not in run:
            continue
        for g in run["gradients"]:
            over = g["bf16_over"]
            lines.append(
                f"gradients, {g['layer']} x{g['batch']}: bf16 over ours {over['input']:.2f} (input), {over['weight']:.2f} (weight)"
            )
        for gemm in run["gemms"]:
            lines.append(
                f"GEMM {gemm['m']} x {gemm['k']} x {gemm['n']}: "
                + ", ".join(f"{name} over bits {speed.ratio(gemm, name, 'bits-in')}" for name in gemm["times"] if speed.kind(name))
            )
        for ladder in run.get("ladders", []):
            lines.append(
                f"ladder, {ladder['layer']}: "
                + ", ".join(f"{n} {r:.2f}x" for n, r in ladder["fp32_over"].items())
                + "; over the one-word loop: "
                + ", ".join(f"{n} {r:.1f}x" for n, r in ladder["one_word_over"].items())
            )
        if "scaling" in run:
            lines.append(
                "all threads over one: "
                + ", ".join(f"{s['layer']} x{s['batch']} {s['one_over_all']:.2f}" for s in run["scaling"])
            )
        onnx = run["onnxruntime"]
        lines.append(f"ONNX Runtime {onnx}" if onnx else "ONNX Runtime is not installed: not measured")
        lines.append(f"taking turns with PyTorch costs a factor of {run['alternation']['pair_over_sum']:.3f}")
    return "\n".join(lines)
