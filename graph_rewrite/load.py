"""Opening a model so that whatever is wrong with the file is one sentence, before any work is done."""

import os
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from ort_cks.graph_rewrite.errors import RewriteError

_OPSET_OF_EVERY_SUPPORTED_RUNTIME = 21  # ONNX Runtime 1.18, the oldest the library serves, knows it


def load(source: onnx.ModelProto | str | os.PathLike) -> ir.Model:
    """The model; external data is memory-mapped and not read. The given ModelProto is never changed.

    Raises:
        RewriteError: what is wrong with the file or the model, in one sentence.
    """
    if isinstance(source, onnx.ModelProto):
        # A copy, because onnx_ir names a tensor in place when it names the value.
        name, proto, folder = "the model", onnx.ModelProto(), None
        proto.CopyFrom(source)
    else:
        path = Path(source)
        name, proto, folder = str(path), _read(path), path.parent
    if not proto.HasField("graph") or not proto.graph.node or not proto.opset_import:
        raise RewriteError(
            f"{name} is not an ONNX model, or a truncated one: it has no graph with operators."
        )
    try:
        model = ir.from_proto(proto)
    except Exception as error:
        raise RewriteError(f"{name} is not a valid ONNX model: {_first_line(error)}") from error
    if "" not in model.opset_imports and "ai.onnx" in model.opset_imports:
        model.opset_imports[""] = model.opset_imports.pop("ai.onnx")
    # A model without ONNX's own operators may say none. What the rewriter adds are some.
    _check_opset(name, model.opset_imports.setdefault("", _OPSET_OF_EVERY_SUPPORTED_RUNTIME))
    _check_every_input_is_made(name, model)
    _find_external_data(name, model, folder)
    return model


def _read(path: Path) -> onnx.ModelProto:
    if path.is_dir():
        raise RewriteError(f"{path} is a directory; give the .onnx file in it.")
    try:
        if path.stat().st_size == 0:
            raise RewriteError(f"{path} is empty.")
        return onnx.load(path, load_external_data=False)
    except FileNotFoundError:
        raise RewriteError(f"{path} does not exist.") from None
    except OSError as error:
        raise RewriteError(f"{path} cannot be read: {error.strerror}.") from error
    except (DecodeError, ValueError) as error:
        if isinstance(error, RewriteError):
            raise
        raise RewriteError(
            f"{path} is not an ONNX model, or a truncated one: {_first_line(error)}"
        ) from error


def _check_opset(name: str, version: int) -> None:
    """Asks the installed ONNX Runtime itself, because it publishes no list of the opsets it takes."""
    if 1 <= version <= _OPSET_OF_EVERY_SUPPORTED_RUNTIME:
        return
    problem = f"{name} uses opset {version} of ONNX, which the installed"
    try:
        import onnxruntime
    except ImportError:
        if not 1 <= version <= onnx.defs.onnx_opset_version():
            raise RewriteError(f"{problem} onnx {onnx.__version__} does not know.") from None
        return
    info = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "opset", [info], [output]
    )
    opsets = [onnx.helper.make_opsetid("", version)]
    probe = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise RewriteError(f"{problem} ONNX Runtime {onnxruntime.__version__} does not know.") from error


def _check_every_input_is_made(name: str, model: ir.Model) -> None:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.inputs:
            if value is None or value.producer() or value.is_graph_input() or value.is_initializer():
                continue
            raise RewriteError(f"{name}: node '{node.name}' reads '{value.name}', which nothing makes.")


def _find_external_data(name: str, model: ir.Model, folder: Path | None) -> None:
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if not isinstance(tensor, ir.ExternalTensor):
                continue
            if folder is None:
                raise RewriteError(
                    f"{name} keeps weight '{value.name}' in a file beside it; give its path instead."
                )
            tensor.base_dir = folder
            data = Path(tensor.path)
            if not data.is_file():
                raise RewriteError(f"{name} keeps weights in {tensor.location}, which is not beside it.")
            if data.stat().st_size < (tensor.offset or 0) + (tensor.length or tensor.nbytes):
                raise RewriteError(
                    f"{name}: {tensor.location} is too short for weight '{value.name}'; is it truncated?"
                )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") + "."
