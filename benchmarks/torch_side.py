"""PyTorch's side of the benchmarks: captured CUDA graphs of a layer or a model, and float64 references."""

import copy
import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

from benchmarks.suite import Layer

TORCH_TYPE = {"fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}
# cuDNN's search (cudnn.benchmark) and lazy initialisation happen in the runs before the capture.
RUNS_BEFORE_CAPTURE = 3


def set_precision(dtype: str) -> None:
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = dtype == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"


def replay(compute: Callable[[], object], stream: torch.cuda.Stream | None = None) -> Callable[[], None]:
    """Captures what `compute` does on the GPU (on `stream`); the result replays it and waits."""
    stream = stream or torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(RUNS_BEFORE_CAPTURE):
            compute()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph, stream=stream):
        outputs = compute()

    # What the graph reads and writes must outlive it: the next capture returns memory that nobody holds.
    def run(keep: object = (compute, outputs)) -> None:
        graph.replay()
        torch.cuda.synchronize()

    return run


def empty_graph() -> Callable[[], None]:
    """What replaying costs by itself: a graph of one kernel on one element."""
    x = torch.zeros(1, device="cuda")
    return replay(lambda: torch.relu(x))


def compute(
    layer: Layer,
    x: torch.Tensor,
    second: torch.Tensor,
    layout: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """The layer's output; `second` is w, or dy of a weight gradient, whose result comes in `layout`."""
    arguments = {"stride": layer.stride, "padding": layer.pad, "dilation": layer.dilation}
    if layer.is_weight_gradient:
        w = torch.empty(
            layer.w_shape, dtype=x.dtype, device=x.device, memory_format=layout
        )  # only its shape counts
        pairs = ([value] * 2 for value in arguments.values())
        wanted = (False, True, False)  # the gradients of x, w and the bias
        backward = torch.ops.aten.convolution_backward
        return backward(second, x, w, None, *pairs, False, [0, 0], 1, wanted)[1]
    if layer.transposed:  # also an input gradient: cuDNN has one function for both
        return nn.functional.conv_transpose2d(x, second, output_padding=layer.output_padding, **arguments)
    return nn.functional.conv2d(x, second, **arguments)


def layer_graphs(
    layer: Layer, dtype: str, x: np.ndarray, second: np.ndarray, copies: int, hot: bool = False
) -> list[Callable[[], None]]:
    """The layer `copies` times in one graph, in either of PyTorch's layouts.

    Each with weights and a result of its own; or `hot`, all with the same.
    """
    set_precision(dtype)

    def graph(layout: torch.memory_format) -> Callable[[], None]:
        pixels, other = (
            torch.from_numpy(array).cuda().contiguous(memory_format=layout) for array in (x, second)
        )
        if hot or layer.is_weight_gradient:
            others = [other] * copies
        else:
            others = [other, *(other.clone() for _ in range(copies - 1))]

        def computed() -> list[torch.Tensor]:
            kept = []
            for other in others:
                result = compute(layer, pixels, other, layout)
                if not hot:
                    kept.append(result)
                del result  # so that the next one takes its place
            return kept

        return replay(computed)

    return [graph(layout) for layout in (torch.contiguous_format, torch.channels_last)]


@torch.no_grad()
def exact(layer: Layer, x: np.ndarray, second: np.ndarray) -> torch.Tensor:
    """The layer's output computed in float64 on the GPU."""
    torch.backends.cudnn.benchmark = False  # a search in float64 takes longer than any of its algorithms
    return compute(layer, *(torch.from_numpy(array).cuda().double() for array in (x, second)))


class _DeviceArray:
    """Memory that somebody else holds, as PyTorch can read it."""

    def __init__(self, address: int, shape: tuple[int, ...], kind: np.dtype):
        interface = {"data": (address, False), "shape": shape, "typestr": np.dtype(kind).str, "version": 3}
        self.__cuda_array_interface__ = interface


def max_error(addresses: Iterable[int], kind: np.dtype, exact: torch.Tensor) -> float:
    """The largest error as a share of exact's root mean square; inf for a NaN.

    Args:
        addresses: of results on the GPU, of exact's shape and of type `kind`.
    """
    largest = 0.0
    for address in addresses:
        result = torch.as_tensor(_DeviceArray(address, tuple(exact.shape), kind), device="cuda")
        error = float((result.double() - exact).abs().amax())
        largest = max(largest, error if math.isfinite(error) else math.inf)
    return largest / float(exact.square().mean().sqrt())


def layer_error(
    layer: Layer, x: np.ndarray, second: np.ndarray, addresses: Iterable[int], kind: np.dtype
) -> float:
    """As max_error, of the layer's results in our layout: NHWC, but for weight gradients."""
    wanted = exact(layer, x, second)
    return max_error(addresses, kind, wanted if layer.is_weight_gradient else wanted.permute(0, 2, 3, 1))


def free_memory() -> None:
    """Gives what PyTorch keeps for later back to the GPU: ONNX Runtime cannot ask it to."""
    torch.cuda.empty_cache()


@torch.no_grad()
def strict_output(model: nn.Module, x: torch.Tensor) -> np.ndarray:
    """What the model answers in float32 on the GPU, with TF32 off."""
    set_precision("fp32")
    torch.backends.cudnn.benchmark = False  # it runs once
    on_gpu = copy.deepcopy(model).to("cuda", torch.float32)
    return on_gpu(x.to("cuda", torch.float32)).cpu().numpy()


def model_graphs(model: nn.Module, x: torch.Tensor, dtype: str) -> list[Callable[[], None]]:
    """The model inside in either of PyTorch's layouts; input and output stay as the user has them."""
    channels_last = {3: [], 4: [torch.channels_last], 5: [torch.channels_last_3d]}[x.dim()]
    return [_model_graph(model, x, dtype, layout) for layout in (torch.contiguous_format, *channels_last)]


def compiled_graph(model: nn.Module, x: torch.Tensor, dtype: str) -> Callable[[], None]:
    """The model through torch.compile with max-autotune, channels last if it is 2-D; it takes minutes."""
    layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
    return _model_graph(model, x, dtype, layout, torch_compile=True)


def _model_graph(
    model: nn.Module, x: torch.Tensor, dtype: str, layout: torch.memory_format, torch_compile: bool = False
) -> Callable[[], None]:
    set_precision(dtype)
    on_gpu = copy.deepcopy(model).to("cuda", TORCH_TYPE[dtype], memory_format=layout)
    # CUDA graphs are ours to capture, as for the other contenders.
    forward = torch.compile(on_gpu, mode="max-autotune-no-cudagraphs") if torch_compile else on_gpu
    pixels = x.to("cuda", TORCH_TYPE[dtype])
    return replay(lambda: forward(pixels.contiguous(memory_format=layout)).contiguous())
