"""Whether a session's runs may become a CUDA graph: each rule answers with the reason against it, or None.

A graph holds addresses, and whatever the host computed while it was captured. So it may only be replayed
where nothing else decides what lies at the addresses (fixed shapes, ONNX Runtime's own allocator and stream),
and where the host has no part in the answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    import onnxruntime

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

# Options of the CUDA provider under which memory and streams stay ONNX Runtime's own. An option that is not
# here, a newer one or the caller's own allocator, stream or graph, leaves the session as the caller made it.
_HARMLESS_OPTIONS = {
    *("device_id", "gpu_mem_limit", "arena_extend_strategy", "cudnn_conv_algo_search", "use_tf32"),
    *("cudnn_conv_use_max_workspace", "cudnn_conv1d_pad_to_nc1d", "prefer_nhwc", "fuse_conv_bias"),
    *("enable_skip_layer_norm_strict_mode", "sdpa_kernel"),
}

# Others may keep a state, or read their inputs on the host.
_KNOWN_DOMAINS = ("", "ai.onnx", "com.microsoft", "ort_cks")
# The host seeds each run; a graph would give the same numbers every time. Dropout does so in training only.
_RANDOM = (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)


def provider_pairs(
    providers: Sequence[Any], provider_options: Sequence[Mapping[str, Any]] | None
) -> list[tuple[str, Mapping[str, Any]]]:
    """Both ways to give providers as names with options; nothing where onnxruntime will refuse them."""
    if provider_options is not None:
        pairs = list(zip_longest(providers, provider_options))
    else:
        pairs = [(each, {}) if isinstance(each, str) else each for each in providers]
    well_formed = all(
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], dict)
        for pair in pairs
    )
    return pairs if well_formed else []


def provider_refusal(
    providers: Sequence[tuple[str, Mapping[str, Any]]], available: Sequence[str]
) -> str | None:
    """providers: names and options, the first choice first. available: those of this onnxruntime."""
    names = [name for name, _ in providers]
    if CUDA not in available or not names or names[0] != CUDA:
        return "the CUDA provider does not come first"
    if others := [name for name in names[1:] if name != CPU]:
        return f"{others[0]} may take nodes"
    if foreign := [name for name in providers[0][1] if name not in _HARMLESS_OPTIONS]:
        return f"the caller sets the provider option {foreign[0]}"
    return None


def session_options_refusal(options: "onnxruntime.SessionOptions") -> str | None:
    if options.enable_profiling:
        return "a profile is wanted, and a graph shows no nodes"
    if options.execution_mode.name != "ORT_SEQUENTIAL":
        return "nodes are to run in parallel"
    if _config_entry(options, "session.use_env_allocators") == "1":
        return "other sessions share its memory"
    return None


def model_refusal(model: "onnx.ModelProto") -> str | None:
    """What can be said of the file, before a session with it is started for nothing."""
    functions = {(function.domain, function.name) for function in model.functions}
    for body in (model.graph.node, *(function.node for function in model.functions)):
        for node in body:
            known = node.domain in _KNOWN_DOMAINS or (node.domain, node.op_type) in functions
            training = node.op_type == "Dropout" and len(node.input) > 2
            if not known:
                return f"node '{node.name}' is of the domain {node.domain}, whose operators may keep a state"
            if node.op_type in _RANDOM or training:
                return f"node '{node.name}', {node.op_type}, draws other numbers in each run"
            if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
                return f"node '{node.name}', {node.op_type}, chooses what to run in each run"
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: _extents(value) for value in model.graph.input if value.name not in constants}
    for name, extents in inputs.items():
        # Operators on CUDA read shapes, axes, bounds and the like on the host. All of them are that small.
        if extents is not None and len(extents) < 2:
            return f"the host may need the input '{name}', of rank {len(extents)}"
    for output in model.graph.output:
        if output.name in inputs:
            return f"'{output.name}' is an input and an output"
    return values_refusal(inputs.items())


def values_refusal(values: Iterable[tuple[str, Sequence[int | str | None] | None]]) -> str | None:
    """values: name and shape; what is no extent is unknown before a run. None is no shape at all."""
    for name, shape in values:
        if shape is None:
            return f"'{name}' has no fixed shape"
        for extent in shape:
            if not isinstance(extent, int) or extent <= 0:
                return f"'{name}' has no fixed shape: [{', '.join(str(e or '?') for e in shape)}]"
    return None


def _extents(value: "onnx.ValueInfoProto") -> list[int | str | None] | None:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in tensor.shape.dim]


def _config_entry(options: "onnxruntime.SessionOptions", key: str) -> str | None:
    try:
        return options.get_session_config_entry(key)
    except RuntimeError:  # it is not set
        return None
