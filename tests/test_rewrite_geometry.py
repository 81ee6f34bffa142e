"""The rewriter's arithmetic against the definition, exhaustively on small axes, and against ONNX Runtime."""

from itertools import product

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from ort_cks.graph_rewrite.geometry import Axis, cut_dead_taps, pads_for_output, same_pads, zero_fraction


def small_axes(transposed: bool):
    ranges = (range(1, 6), range(1, 6), range(1, 4), range(1, 4), range(4), range(4), range(3))
    for n, k, s, d, begin, end, extra in product(*ranges):
        if extra and (not transposed or extra >= max(s, d)):
            continue
        axis = Axis(transposed, n, k, s, d, (begin, end), extra)
        if axis.output > 0:
            yield axis


def pairs_by_definition(axis: Axis) -> np.ndarray:
    """alive[output, tap], by walking the formulas in Axis's docstring."""
    alive = np.zeros((axis.output, axis.kernel), bool)
    for tap in range(axis.kernel):
        offset = tap * axis.dilation - axis.pads[0]
        if axis.transposed:
            for i in range(axis.input):
                if 0 <= i * axis.stride + offset < axis.output:
                    alive[i * axis.stride + offset, tap] = True
        else:
            for o in range(axis.output):
                alive[o, tap] = 0 <= o * axis.stride + offset < axis.input
    return alive


@pytest.mark.parametrize("transposed", [False, True])
def test_live_pairs_zero_fraction_and_cut(transposed):
    count = 0
    for axis in small_axes(transposed):
        alive = pairs_by_definition(axis)
        assert axis.live_pairs() == list(alive.sum(0)), axis
        assert zero_fraction([axis]) == pytest.approx(1 - alive.mean(), abs=1e-12), axis

        kept, cut = cut_dead_taps(axis)
        assert cut.output == axis.output, (axis, cut)
        assert min(cut.pads) >= 0, (axis, cut)
        assert cut.kernel >= 1, (axis, cut)
        np.testing.assert_array_equal(pairs_by_definition(cut), alive[:, kept], err_msg=str(axis))
        assert not alive[:, : kept.start].any(), axis
        assert not alive[:, kept.stop :].any(), axis
        # What is left at either end is alive, or its pad would have become negative.
        if alive.any():
            assert alive[:, kept.start].any() or cut.pads[0] < axis.dilation, axis
            assert alive[:, kept.stop - 1].any() or cut.pads[1] < axis.dilation, axis
        count += 1
    assert count > 2000


def test_zero_fraction_multiplies_over_axes():
    a, b = Axis(False, 33, 3, dilation=36, pads=(36, 36)), Axis(True, 4, 4, stride=2, pads=(1, 1))
    live = pairs_by_definition(a).mean() * pairs_by_definition(b).mean()
    assert zero_fraction([a, b]) == pytest.approx(1 - live)


def test_the_cuts_people_meet():
    kept, cut = cut_dead_taps(Axis(False, 33, 3, dilation=36, pads=(36, 36)))
    assert (kept, cut) == (slice(1, 2), Axis(False, 33, 1))
    kept, cut = cut_dead_taps(Axis(True, 1, 4, stride=2, pads=(1, 1)))
    assert (kept, cut) == (slice(1, 3), Axis(True, 1, 2, stride=2))


def onnxruntime_output(axis: Axis, **attributes) -> np.ndarray | None:
    """What ONNX Runtime computes from x = 1, 2, ... and w = 1, 10, 100, ...; None where it refuses."""
    op_type = "ConvTranspose" if axis.transposed else "Conv"
    if axis.output_padding:
        attributes["output_padding"] = [axis.output_padding]
    node = helper.make_node(
        op_type, ["x", "w"], ["y"], strides=[axis.stride], dilations=[axis.dilation], **attributes
    )
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, None]) for name in "xwy"]
    model = helper.make_model(
        helper.make_graph([node], "g", info[:2], info[2:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    x = np.arange(1, axis.input + 1, dtype=np.float32)[None, None]
    w = 10 ** np.arange(axis.kernel, dtype=np.float32)[None, None]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x, "w": w})[0]
    except Exception:
        return None


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_same_pads_are_those_of_onnxruntime(transposed, auto_pad):
    checked = 0
    for n, k, s, d, extra in product((1, 4, 5), (1, 2, 3, 4), (1, 2, 3), (1, 2), (0, 1)):
        if extra and (not transposed or extra >= max(s, d)):
            continue
        axis = Axis(transposed, n, k, s, d, output_padding=extra)
        expected = onnxruntime_output(axis, auto_pad=auto_pad)
        if expected is None:
            # ONNX Runtime refuses a dilated SAME convolution, and an output_padding that only the dilation
            # allows.
            assert extra >= s if transposed else d > 1, axis
            continue
        begin, end = same_pads(axis, auto_pad)
        np.testing.assert_array_equal(
            onnxruntime_output(axis, pads=[begin, end]), expected, err_msg=str(axis)
        )
        checked += 1
    assert checked >= 36


@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER"])
def test_pads_for_output_are_those_of_onnxruntime(auto_pad):
    for n, k, s, d, less in product((1, 4), (1, 3, 4), (1, 2), (1, 2), range(4)):
        axis = Axis(True, n, k, s, d)
        wanted = axis.output - less
        if wanted < 1:
            continue
        expected = onnxruntime_output(axis, auto_pad=auto_pad, output_shape=[wanted])
        assert expected is not None, axis
        assert expected.shape == (1, 1, wanted), axis
        begin, end = pads_for_output(axis, wanted, auto_pad)
        np.testing.assert_array_equal(
            onnxruntime_output(axis, pads=[begin, end]), expected, err_msg=str(axis)
        )
    assert pads_for_output(axis, axis.output + 1, auto_pad) is None
