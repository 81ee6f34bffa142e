"""The rewriter: swaps the convolutions of an ONNX model for the operators of the ort_cks domain.

`pipeline.rewrite_model` is the whole of it; each pass is a file of its own.
"""
