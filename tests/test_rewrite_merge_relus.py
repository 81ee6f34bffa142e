"""Relus that skip connections leave become one ReluEach, and those that have to stay apart do."""

import numpy as np
import onnx
import pytest
from layout_models import check_shapes
from onnx import TensorProto, helper
from rewrite_models import Builder, assert_same_answers, op_types, random_feeds, rewrite

import ort_cks

SHAPE = (2, 4, 16, 16)


def down(b, x):
    return b.op("Conv", x, weights(b), b.normal(4), strides=[2, 2], pads=[1] * 4)


def up(b, x, channels=8):
    return b.op("ConvTranspose", x, weights(b, channels), b.normal(4), strides=[2, 2], pads=[1] * 4)


def weights(b, channels=4):
    """Of a size with which values stay as large as they are."""
    return b.constant(b.random.standard_normal((channels, 4, 4, 4)) / 6)


def skip(b, x, depth):
    """x beside what is made of it, as in pix2pix."""
    y = down(b, b.op("LeakyRelu", x, alpha=0.2))
    y = skip(b, y, depth - 1) if depth > 1 else y
    return b.op("Concat", x, up(b, b.op("Relu", y), 8 if depth > 1 else 4), axis=1)


def translator(b, x, depth):
    """As many skip connections as it is deep, and a Relu on each."""
    return up(b, b.op("Relu", skip(b, down(b, x), depth)))


def skipped(b, x):
    """A convolution and its two readers: a convolution, of its LeakyRelu, and a Relu that is needed later."""
    y = down(b, x)
    return down(b, b.op("LeakyRelu", y, alpha=0.2)), b.op("Relu", y)


def relus(result):
    """The numbers of inputs of the Relus that are there, alone or together."""
    return [len(node.input) for node in result.model.graph.node if node.op_type in ("Relu", "ReluEach")]


def check(model, expected, rtol=2e-5, **options):
    """expected: what `relus` gives. Answers are as before with the functions, and with the library."""
    result = rewrite(model, **options)
    assert relus(result) == expected
    assert ("ReluEach" in op_types(result)) is any(count > 1 for count in expected)
    assert_same_answers(model, result.model, rtol=rtol)
    feeds = random_feeds(model)
    answers = (ort_cks.InferenceSession(m).run(None, feeds) for m in (model, result.model))
    for want, got in zip(*answers, strict=True):
        size = np.sqrt(np.mean(np.square(want.astype(np.float64))))
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * size)
    return result


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("depth", [2, 3])
def test_the_skips_of_an_image_translator(depth, dtype, layout):
    b = Builder(dtype)
    model = b.model(translator(b, b.input(*SHAPE), depth))
    rtol = 2e-5 if dtype == TensorProto.FLOAT else 1e-2
    result = check(model, [depth], rtol, layout=layout)
    check_shapes(result.model, random_feeds(model))


def test_one_relu_is_left_alone():
    b = Builder()
    check(b.model(translator(b, b.input(*SHAPE), 1)), [1])


def test_those_that_need_one_another():
    """Two translators in a row: each has a node of its own."""
    b = Builder()
    y = translator(b, translator(b, b.input(*SHAPE), 3), 2)
    check(b.model(y), [3, 2], layout="nhwc")


def test_one_that_needs_the_other():
    """Merged, the two would need themselves."""
    b = Builder()
    check(b.model(translator(b, translator(b, b.input(*SHAPE), 1), 1)), [1, 1])


def test_one_that_needs_the_other_among_others():
    """The first Relu is needed by what makes the third's input; the second goes with either."""
    b = Builder()
    x = b.input(*SHAPE)
    (a, first), (c, second) = skipped(b, x), skipped(b, x)
    d, third = skipped(b, b.op("Add", up(b, a, 4), first))
    y = b.op("Sum", up(b, up(b, d, 4), 4), up(b, third, 4), second, up(b, c, 4))
    result = check(b.model(y), [2, 1])
    merged = next(node for node in result.model.graph.node if node.op_type == "ReluEach")
    assert list(merged.output) == [first, second]


def test_one_that_is_needed_at_once_stays_and_does_not_part_others():
    b = Builder()
    x = b.input(*SHAPE)
    a, first = skipped(b, x)
    y = down(b, a)  # as in a block that begins with its activation
    y = b.op("Add", y, b.op("Conv", b.op("Relu", y), b.normal(4, 4, 1, 1)))
    c, second = skipped(b, x)
    late = up(b, first, 4), up(b, second, 4)
    y = b.op("Sum", *late, up(b, up(b, c, 4), 4), up(b, up(b, up(b, y, 4), 4), 4))
    result = check(b.model(y), [1, 2])
    assert op_types(result).count("Relu") == 1


def test_outputs_of_the_model_keep_their_names_and_order():
    b = Builder()
    x = b.input(*SHAPE)
    (a, first), (c, second) = skipped(b, x), skipped(b, x)
    model = b.model(second, a, first, c)
    result = check(model, [2])
    assert [output.name for output in result.model.graph.output] == [second, a, first, c]
    assert result.model.graph.node[-1].op_type == "ReluEach"  # behind what else reads its inputs


@pytest.mark.parametrize("given", [False, True])
def test_a_relu_of_what_the_model_gives_out_stays(given):
    """Its input lives to the end anyway, and its output would live beside it for nothing."""
    b = Builder()
    x = b.input(*SHAPE)
    leaky = [b.op("LeakyRelu", down(b, x), alpha=0.2) for _ in range(2)]
    first, second = (b.op("Relu", y) for y in leaky)
    ends = [down(b, y) for y in leaky]
    y = b.op("Add", up(b, first, 4), up(b, second, 4))
    check(b.model(y, *ends, *(leaky if given else ())), [1, 1] if given else [2])


def test_relus_of_what_other_operators_make_stay():
    b = Builder()
    x = b.input(*SHAPE)
    a, c = b.op("Exp", x), b.op("Sin", x)
    others = b.op("Add", a, c)  # in front of both Relus
    check(b.model(down(b, b.op("Sum", others, b.op("Relu", a), b.op("Relu", c)))), [1, 1])


def test_each_type_has_a_node_of_its_own():
    b = Builder()
    x = b.input(*SHAPE)
    floats = translator(b, x, 2)
    b.dtype = TensorProto.FLOAT16
    halves = translator(b, b.op("Cast", x, to=TensorProto.FLOAT16), 3)
    b.dtype = TensorProto.FLOAT
    y = b.op("Add", floats, b.op("Cast", halves, to=TensorProto.FLOAT))
    check(b.model(y), [2, 3], 1e-2)


@pytest.mark.parametrize(
    "options", [{"fuse": False}, {"exclude": "*"}], ids=["no fusions", "nothing is ours"]
)
def test_without_fusions_or_operators_of_ours(options):
    b = Builder()
    model = b.model(translator(b, b.input(*SHAPE), 3))
    assert "ReluEach" not in op_types(rewrite(model, **options))


def test_none_is_taken_from_one_graph_to_another():
    """One Relu's reader is in the branch of an If, and so are a convolution and its Relu."""
    b = Builder()
    b.inputs.append(helper.make_tensor_value_info("condition", TensorProto.BOOL, []))
    x = b.input(*SHAPE)
    (a, first), (c, second), (d, third) = (skipped(b, x) for _ in range(3))
    before = len(b.nodes)
    inner, fourth = skipped(b, x)
    inside = b.op("Sum", b.op("Exp", second), fourth, up(b, inner, 4), output="then")
    b.nodes, nodes = b.nodes[:before], b.nodes[before:]
    same = helper.make_node("Identity", [second], ["else"])
    branches = [
        helper.make_graph(nodes_, name, [], [onnx.ValueInfoProto(name=name)])
        for name, nodes_ in ((inside, nodes), ("else", [same]))
    ]
    z = b.op("If", "condition", then_branch=branches[0], else_branch=branches[1])
    model = b.model(b.op("Sum", first, third, z, up(b, a, 4), up(b, c, 4), up(b, d, 4)))
    rewritten = rewrite(model).model
    merged = [node for node in rewritten.graph.node if node.op_type == "ReluEach"]
    assert [list(node.output) for node in merged] == [[first, third]]
    (choice,) = (node for node in rewritten.graph.node if node.op_type == "If")
    assert all("ReluEach" not in {node.op_type for node in a.g.node} for a in choice.attribute)
    for condition in (True, False):
        feeds = random_feeds(model) | {"condition": np.array(condition)}
        assert_same_answers(model, rewritten, feeds)


def random_model(seed):
    """Convolutions, Relus and Adds of whatever there is, in any order."""
    b = Builder(seed=seed)
    values, unread = [b.input(1, 4, 3, 3)], []
    for _ in range(24):
        kind = b.random.choice(["Conv", "Relu", "Relu", "Add"])
        x, z = (values[-1 - min(int(b.random.exponential(4)), len(values) - 1)] for _ in range(2))
        more = {"Conv": [b.constant(b.random.standard_normal((4, 4, 1, 1)) / 2)], "Relu": [], "Add": [z]}
        values.append(b.op(kind, x, *more[kind]))
        unread = [value for value in unread if value not in (x, *more[kind])] + values[-1:]
    return b.model(*unread)


def test_any_graph_stays_in_order():
    """What else reads an input of the node stands in front of it, what reads an output behind it."""
    merged = 0
    for seed in range(40):
        model = random_model(seed)
        rewritten = rewrite(model).model
        assert_same_answers(model, rewritten)  # the order of nodes is checked there
        nodes = list(rewritten.graph.node)
        for position, node in enumerate(nodes):
            if node.op_type == "ReluEach":
                merged += 1
                assert not any(set(node.input) & set(later.input) for later in nodes[position + 1 :])
    assert merged >= 5
