"""Benchmarks of ort_cks against ONNX Runtime's own kernels and PyTorch. Run from a checkout: `python -m
benchmarks.layers`.
"""
