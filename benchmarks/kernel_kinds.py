"""Where a model's time on the GPU goes: its kernels by what they do."""

from collections import Counter
from collections.abc import Callable

from benchmarks.profiled import device_events

REPLAYS = 5

# The first whose words are in a kernel's name is its kind.
KINDS = (
    ("pooling", ("pooling", "maxpool", "max_pool", "avgpool", "avg_pool")),
    ("activation, arithmetic", ("relu_each",)),  # ours
    ("ort_cks", ("cks::",)),
    ("layout", ("transpose", "nchwtonhwc", "nhwctonchw", "nchw2nhwc", "nhwc2nchw", "tensortransform")),
    (
        "concat, slice, pad",
        ("concat", "slice", "splitkernel", "pad", "catarray", "expand", "memcpy", "memset"),
    ),
    ("resize", ("resize", "upsample")),
    ("reduction", ("reduce",)),
    ("bias", ("optensor", "op_tensor", "addbias", "bias")),
    (
        "convolution",
        (
            "conv",
            "xmma",
            "gemm",
            "wgrad",
            "dgrad",
            "fprop",
            "implicit",
            "sm90_",
            "sm80_",
            "cudnn",
            "cutlass",
        ),
    ),
    ("activation, arithmetic", ("elementwise", "relu", "activation", "tanh", "triton")),
)
OTHER = "other"


def kind_of(kernel: str) -> str:
    name = kernel.lower()
    return next((kind for kind, words in KINDS if any(word in name for word in words)), OTHER)


def time_by_kind(run: Callable[[], None]) -> dict[str, float]:
    """Microseconds of a run by kind, the longest first. Kernels that overlap count in full."""
    times: Counter[str] = Counter()
    for name, begin, end in device_events(lambda: [run() for _ in range(REPLAYS)]):
        times[kind_of(name)] += (end - begin) / REPLAYS
    return {kind: round(time, 1) for kind, time in times.most_common()}
