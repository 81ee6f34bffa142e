"""Writing a model so that, whatever happens, there is a whole one at the path or what was there before."""

import os
import shutil
import tempfile
from pathlib import Path

import onnx_ir as ir

from ort_cks.graph_rewrite.errors import RewriteError

_INLINE_LIMIT_BYTES = 1_500_000_000  # protobuf ends at 2 GB


def save(model: ir.Model, path: Path) -> None:
    """Writes to a temporary folder beside the path and renames. See RewriteResult.save."""
    tensors = [
        v.const_value for g in model.graphs() for v in g.initializers.values() if v.const_value is not None
    ]
    external = (
        any(isinstance(t, ir.ExternalTensor) for t in tensors)
        or sum(t.nbytes for t in tensors) > _INLINE_LIMIT_BYTES
    )
    data = path.with_name(f"{path.name}.data")
    if external:
        sources = {os.path.realpath(t.path) for t in tensors if isinstance(t, ir.ExternalTensor)}
        if os.path.realpath(data) in sources:
            raise RewriteError(f"{data} holds the original's weights; choose another name for the output.")
    check_writable(path)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise RewriteError(f"{path.parent} cannot be written: {error.strerror}.") from error
    try:
        ir.save(model, folder / path.name, external_data=data.name if external else None)
        if external and (folder / data.name).exists():
            os.replace(folder / data.name, data)
        os.replace(folder / path.name, path)
    except OSError as error:
        raise RewriteError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Raises RewriteError where `save` is bound to fail; asked before the work, which may take long."""
    if path.is_dir():
        raise RewriteError(f"{path} is a directory; give a file name.")
    if not path.parent.is_dir():
        raise RewriteError(f"{path.parent} is not a folder.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise RewriteError(f"{path.parent} cannot be written.")
