"""The 11 architectures on a GPU: exported by torch, rewritten, compared with a float32 run with TF32 off.

Every convolution has to run in an ort_cks operator on the CUDA provider, and the answers have to be within
the comparer's tolerance without and with a CUDA graph. Each model runs in a process of its own, as for
`python -m benchmarks.models --check-only`. torch folds the BatchNormalizations of the float16 exports; in the
float32 ones they are left to the rewriter.
"""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # last, so that the installed ort_cks is found before the checkout's

from benchmarks.models import rows_of  # noqa: E402
from benchmarks.suite import MODELS  # noqa: E402

MISSING = [
    name for name in ("torch", "torchvision", "transformers") if importlib.util.find_spec(name) is None
]
DTYPES = ("fp16", "tf32")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(bool(MISSING), reason=f"the models need {', '.join(MISSING)}"),
]


@pytest.mark.parametrize("name", MODELS)
def test_model(name):
    rows = list(rows_of("check", name, DTYPES))
    for row in rows:
        assert "failure" not in row, row
        assert row["provider"] == "CUDAExecutionProvider"
        assert row["in_our_ops"] == row["convolutions"] > 0, row
        assert row["beyond"] == 0, row
    runs = [(row["dtype"], row["cuda_graph"]) for row in rows]
    assert runs == [(dtype, cuda_graph) for dtype in DTYPES for cuda_graph in (False, True)]
