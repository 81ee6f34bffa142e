"""Times the portable CUDA kernels beside those that cuDNN has for the same instructions, those of sm_80.

    pip install . -C cmake.define.ORT_CKS_CUDA_ARCHITECTURES=90    # without 90a: no kernels for Hopper
    python -m benchmarks.portable --json benchmarks/results/portable.json

The portable kernels are what other GPUs than Hopper's run. cuDNN has its kernels for sm_80 on an H200 too:
its search, with all algorithms allowed, times those that it has for a layer. Both sides are kernels' own time
on the GPU, as CUPTI has it, on warm NHWC tensors, without what a launch costs: of ours while any kernel of a
run is at work; of cuDNN the fastest implicit GEMM that is named for sm_80's instructions, by itself, even
where it needs another kernel to add up parts or to move a tensor.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import layer_models, profiled, runner, torch_side
from benchmarks.gpu import require_gpu
from benchmarks.suite import DTYPES, LAYERS, Layer
from ort_cks.comparison.sessions import BoundSession, Way

RUNS = 20
FOR_SM80 = ("sm80_xmma_fprop_implicit_gemm", "sm80_xmma_dgrad_implicit_gemm", "cutlass_tensorop_")
OURS_FOR_HOPPER = "hopper"


class PortableBenchmark:
    provider = "cuda"
    columns = ("ours_us", "sm80_us")

    def row(self, layer: Layer, dtype: str) -> dict:
        torch_side.free_memory()
        x, w = layer_models.operands(layer, dtype)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ours.onnx"
            layer_models.write_ours(path, layer, dtype, w, copies=1)
            way = Way("ours", path, "cuda", tf32=dtype != "fp32", with_library=True)
            shapes = {"y0": layer_models.result_shape(layer)}
            session = BoundSession(way, layer_models.feeds(layer, x, w), shapes)
        session.run()
        ours = kernels(lambda: [session.run() for _ in range(RUNS)])
        if any(OURS_FOR_HOPPER in name for name, _, _ in ours):
            raise RuntimeError("this ort_cks has kernels for Hopper: install it without 90a")
        addresses = [value.data_ptr() for value in session.values().values()]
        error = torch_side.layer_error(layer, x, w, addresses, layer_models.NUMPY_TYPE[dtype])
        row = {"ours_us": round(time_at_work(ours) / RUNS, 2), "max_error": float(f"{error:.3g}")}

        torch_side.set_precision(dtype)
        torch.backends.cudnn.benchmark_limit = 0  # as many algorithms as there are
        pixels, weights = (
            torch.from_numpy(array).cuda().contiguous(memory_format=torch.channels_last) for array in (x, w)
        )

        def search() -> None:
            torch_side.compute(layer, pixels, weights)
            torch.cuda.synchronize()

        with torch.no_grad():
            searched = kernels(search)
        times = [
            (end - start, name) for name, start, end in searched if any(part in name for part in FOR_SM80)
        ]
        if times:
            least, name = min(times)
            row |= {"sm80_us": round(least, 2), "sm80_kernel": name[:200]}
        return row


def kernels(run: Callable[[], object]) -> list[tuple[str, float, float]]:
    events = profiled.device_events(run)
    return [event for event in events if not event[0].startswith(("Memcpy", "Memset"))]


def time_at_work(found: list[tuple[str, float, float]]) -> float:
    """Microseconds while at least one of them ran: the next may begin while the one before it ends."""
    total, until = 0.0, 0.0
    for _, start, end in found:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="repeatable; default: all")
    parser.add_argument("--only", action="append", metavar="NAME", help="a layer; repeatable; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, after each one")
    options = parser.parse_args()
    layers = [layer for layer in LAYERS if not options.only or layer.name in options.only]
    if options.only and len(layers) != len(options.only):
        parser.error(f"the layers are {', '.join(layer.name for layer in LAYERS)}")
    require_gpu()
    jobs = [(layer, dtype, {}) for dtype in options.dtype or DTYPES for layer in layers]
    rows = runner.run(PortableBenchmark(), jobs, options.json)
    runner.print_summary(rows, "dtype")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
