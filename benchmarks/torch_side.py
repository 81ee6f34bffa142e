"""PyTorch's side of the benchmarks: captured CUDA graphs of a layer or a model, and float64 references."""

import copy
from collections.abc import Callable

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


def replay(compute: Callable[[], object]) -> Callable[[], None]:
    """Captures what `compute` does on the GPU; the result replays it and waits."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(RUNS_BEFORE_CAPTURE):
            compute()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
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


def convolve(layer: Layer, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    arguments = {"stride": layer.stride, "padding": layer.pad, "dilation": layer.dilation}
    if layer.transposed:
        return nn.functional.conv_transpose2d(x, w, output_padding=layer.output_padding, **arguments)
    return nn.functional.conv2d(x, w, **arguments)


def layer_graphs(
    layer: Layer, dtype: str, x: np.ndarray, w: np.ndarray, copies: int
) -> list[Callable[[], None]]:
    """The layer `copies` times in one graph, in either of PyTorch's layouts."""
    set_precision(dtype)

    def graph(layout: torch.memory_format) -> Callable[[], None]:
        pixels = torch.from_numpy(x).cuda().to(memory_format=layout)
        weights = [torch.from_numpy(w).cuda().to(memory_format=layout, copy=True) for _ in range(copies)]
        return replay(lambda: [convolve(layer, pixels, weight) for weight in weights])

    return [graph(layout) for layout in (torch.contiguous_format, torch.channels_last)]


@torch.no_grad()
def exact(layer: Layer, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The layer's output computed in float64 on the GPU."""
    torch.backends.cudnn.benchmark = False  # a search in float64 takes longer than any of its algorithms
    pixels, weights = (torch.from_numpy(array).cuda().double() for array in (x, w))
    return convolve(layer, pixels, weights).cpu().numpy()


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
