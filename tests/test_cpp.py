"""The C++ tests, where a build folder has them (cmake -B build/tests -DORT_CKS_BUILD_TESTS=ON)."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILDS = (
    [Path(os.environ["ORT_CKS_BUILD_DIR"])] if "ORT_CKS_BUILD_DIR" in os.environ else [*ROOT.glob("build/*")]
)


def newest(name):
    """The program, from the build folder that made it last."""
    programs = [build / "tests/cpp" / name for build in BUILDS]
    return max((p for p in programs if p.is_file()), key=lambda p: p.stat().st_mtime, default=None)


@pytest.mark.parametrize(
    "name",
    [
        "plan_test",
        "cpu_convolution_test",
        "portable_plan_test",
        "tile_choice_test",
        "narrow_plan_test",
        "hopper_schedule_test",
        "gradient_schedule_test",
        "few_pixels_plan_test",
        "plan_cache_test",
        "tuning_test",
        "problem_text_test",
        pytest.param("cuda_convolution_test", marks=pytest.mark.gpu),
        pytest.param("cuda_gradient_test", marks=pytest.mark.gpu),
        pytest.param("hopper_configs_test", marks=pytest.mark.gpu),
    ],
)
def test_program(name):
    program = newest(name)
    if program is None:
        pytest.skip(
            f"no build folder has {name}; configure with -DORT_CKS_BUILD_TESTS=ON, or set ORT_CKS_BUILD_DIR"
        )
    ran = subprocess.run([program], capture_output=True, text=True)
    # Of a GPU that it does not serve; not to find one, where this test runs, is a failure.
    if ran.returncode == 77 and "no GPU" not in ran.stdout:
        pytest.skip(f"nothing for {name} to check here: {ran.stdout}")
    assert ran.returncode == 0, ran.stdout + ran.stderr
