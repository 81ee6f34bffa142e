"""ReluEach on each provider, against the definition."""

import numpy as np
import onnxruntime
import pytest
from nodes import DOMAIN, ELEMENT_TYPES, node_model, representable, session
from onnx import helper

DTYPES = ("float", "float16", "bfloat16")

# Less and more than a block of the kernel takes, whole chunks of 16 bytes and not.
SHAPES = [(2, 3, 5, 8), (512,), (0, 4), (), (3, 7), (40000,), (1, 1, 1, 1, 1, 1, 1, 1, 1, 9)]
SHAPES += [(n,) for n in (1, 7, 9, 511, 4095, 4096, 4097, 8191, 8192, 8193, 16384, 32769, 0)]


def draw(shapes, dtype, seed=0):
    """Inputs by name, no two alike."""
    rng = np.random.default_rng(seed)
    return {
        f"X{i}": representable(np.asarray(rng.standard_normal(shape)), dtype)
        for i, shape in enumerate(shapes)
    }


def model_of(inputs, dtype="float", **how):
    return node_model("ReluEach", inputs, {}, dtype, outputs=[n.replace("X", "Y") for n in inputs], **how)


def feeds_of(inputs, dtype):
    return {name: x.astype(np.float16 if dtype == "float16" else np.float32) for name, x in inputs.items()}


def assert_relus(got, inputs):
    for y, (name, x) in zip(got, inputs.items(), strict=True):
        # NumPy's maximum keeps a NaN too.
        np.testing.assert_array_equal(y.astype(np.float32), np.maximum(x, 0), strict=True, err_msg=name)


def check(inputs, provider, dtype="float"):
    assert_relus(session(model_of(inputs, dtype), provider).run(None, feeds_of(inputs, dtype)), inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [2, 7, 16, 17, 20])
def test_every_type_and_number(provider, count, dtype):
    running = session(model_of(draw(SHAPES[:count], dtype), dtype), provider)
    for seed in range(2):
        inputs = draw(SHAPES[:count], dtype, seed)
        assert_relus(running.run(None, feeds_of(inputs, dtype)), inputs)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_value(provider, dtype):
    """All of a type of 16 bits, and of floats those with the same bits in front: infinities and NaNs too."""
    bits = np.arange(2**16, dtype=np.uint16)
    if dtype == "float16":
        x = bits.view(np.float16).astype(np.float32)
    else:
        x = (bits.astype(np.uint32) << 16).view(np.float32)
    assert np.isnan(x).sum() > 200
    check({"X0": x, "X1": x[:-5]}, provider, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_but_empty_tensors(provider, dtype):
    check(draw([(0,), (3, 0, 2)], dtype), provider, dtype)


def test_several_million_elements(provider):
    check(draw([(1 << 22,), (5,), ((1 << 21) + 3,)], "float16"), provider, "float16")


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("places", [(1, 0), (0, 1), (1, 1), (2, 3)])
def test_tensors_may_begin_anywhere(provider, places, dtype):
    """places: of X and Y in their buffers, in elements. Beside Y nothing is written."""
    of_x, of_y = places
    inputs = feeds_of(draw([(n,) for n in (1, 8, 100, 20001)], dtype), dtype)
    running = session(model_of(inputs, dtype), provider)
    binding, results = running.io_binding(), {}
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    kept = []
    for name, x in inputs.items():
        x_buffer = value(np.concatenate([np.full(of_x, 9, x.dtype), x]), provider, 0)
        y_buffer = value(np.full(len(x) + of_y + 8, 7, x.dtype), provider, 0)
        x_at, y_at = (
            buffer.data_ptr() + place * x.itemsize for buffer, place in ((x_buffer, of_x), (y_buffer, of_y))
        )
        binding.bind_input(name, provider, 0, x.dtype, x.shape, x_at)
        binding.bind_output(name.replace("X", "Y"), provider, 0, x.dtype, x.shape, y_at)
        kept.append(x_buffer)
        results[name] = y_buffer
    running.run_with_iobinding(binding)
    for name, x in inputs.items():
        want = np.concatenate([np.full(of_y, 7, x.dtype), np.maximum(x, 0), np.full(8, 7, x.dtype)])
        np.testing.assert_array_equal(results[name].numpy(), want, err_msg=name)


def test_open_extents_and_other_shapes_in_one_session(provider):
    shapes = {"X0": ("n", "m"), "X1": ("k",), "X2": (None, None, None)}
    running = session(model_of(draw([(1, 1), (1,), (1, 1, 1)], "float"), shapes=shapes), provider)
    for given in ([(2, 3), (9000,), (4, 1, 5)], [(0, 3), (1,), (2, 2, 2)], [(2, 3), (9000,), (4, 1, 5)]):
        inputs = draw(given, "float")
        assert_relus(running.run(None, inputs), inputs)


def test_shapes_are_inferred():
    """Each output's from its input, so that ONNX Runtime's own passes know the tensors behind them."""
    shapes = {"X0": ("n", 3), "X1": (4, "w", 2), "X2": (5,)}
    model = model_of(draw([(1, 3), (4, 1, 2), (5,)], "float"), shapes=shapes)
    assert [tuple(y.shape) for y in session(model).get_outputs()] == list(shapes.values())


def test_extents_without_a_name_are_not_taken_for_equal_ones():
    model = model_of(draw([(1, 3), (1, 3)], "float"), shapes={"X0": (None, 3), "X1": (None, 3)})
    first, second = (y.shape[0] for y in session(model).get_outputs())
    assert isinstance(first, str)
    assert isinstance(second, str)
    assert first != second


def test_what_lies_between_two_nodes_has_a_type(provider):
    """Where the model does not say it, and one rank is unknown."""
    inputs = draw([(4, 2), (2, 2, 2), (3,)], "float")
    model = model_of(inputs, shapes={"X0": ("n", 2), "X1": None})
    between = [f"A{i}" for i in range(3)]
    model.graph.node.insert(0, helper.make_node("ReluEach", list(inputs), between, domain=DOMAIN))
    model.graph.node[1].input[:] = between
    assert_relus(session(model, provider).run(None, inputs), inputs)


def test_as_many_outputs_as_inputs(provider):
    inputs = draw([(2,), (3,), (4,)], "float")
    model = node_model("ReluEach", inputs, {}, outputs=["Y0", "Y1", "Y2", "Y3"])
    with pytest.raises(Exception, match="ReluEach node 'the_node': it has 3 inputs and 4 outputs; each"):
        session(model, provider)


def test_one_input_is_too_few():
    with pytest.raises(Exception, match="the_node"):
        session(model_of(draw([(2,)], "float")))


def test_inputs_are_of_one_type():
    inputs = draw([(2,), (2,)], "float")
    model = model_of(inputs)
    model.graph.input[1].type.tensor_type.elem_type = ELEMENT_TYPES["float16"]
    with pytest.raises(Exception, match="the_node"):
        session(model)
