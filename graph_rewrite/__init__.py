"""The rewriter: swaps the convolutions of an ONNX model for the operators of the ort_cks domain.

`pipeline.rewrite_model` is the whole of it; each pass is a file of its own.
"""

from ort_cks.graph_rewrite.errors import RewriteError
from ort_cks.graph_rewrite.pipeline import RewriteResult, rewrite_model
from ort_cks.graph_rewrite.records import NodeRecord

__all__ = ["NodeRecord", "RewriteError", "RewriteResult", "rewrite_model"]
