"""Graphs of ONNX in numpy: every operator and whole text towers beside ONNX Runtime and PyTorch."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper, numpy_helper

from llm2clip_search.encoders import load_encoder, towers
from llm2clip_search.encoders.compiled import GRAPH
from llm2clip_search.encoders.numpy_graph import NumpyGraph, write_graph
from llm2clip_search.encoders.numpy_operators import OPERATORS
from llm2clip_search.encoders.registry import resolve
from llm2clip_search.encoders.towers import compiled_path, load_text_graph
from tests.support.dual import save_dual
from tests.support.models import CAPTIONS, save_model

RNG = np.random.default_rng(0)
HERE: dict[str, Any] = {"runtime": "auto", "device": "cpu"}


def floats(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def scalar(value: float) -> np.ndarray:
    return np.array(value, dtype=np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


X = floats(2, 3, 4)
"""Of most nodes, the first input."""
NODES: tuple[tuple[str, list[np.ndarray | None], dict[str, Any]], ...] = (
    ("Add", [X, floats(4)], {}),
    ("ArgMax", [X], {"axis": 1}),
    ("ArgMax", [X], {"axis": -1, "keepdims": 0}),
    ("ArgMax", [np.round(X)], {"axis": 2, "select_last_index": 1}),
    ("Cast", [X > 0], {"to": TensorProto.FLOAT}),
    ("Cast", [3 * X], {"to": TensorProto.INT64}),
    ("Clip", [X, scalar(-0.5), scalar(0.5)], {}),
    ("Clip", [X, None, scalar(0.5)], {}),
    ("Clip", [X, scalar(0)], {}),
    ("Concat", [X, X, floats(2, 3, 1)], {"axis": 2}),
    ("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(ints(7))}),
    ("Cos", [X], {}),
    ("Div", [X, floats(3, 1) + 4], {}),
    ("Div", [ints(7, 8, 9), ints(2, 4, 10)], {}),
    ("Equal", [ints(1, 2, 3), ints(1, 5, 3)], {}),
    ("Erf", [4 * X], {}),
    ("Expand", [floats(3, 1), ints(2, 1, 4)], {}),
    ("Expand", [floats(2, 3), ints(1, 1)], {}),
    ("Flatten", [X], {}),
    ("Flatten", [X], {"axis": 0}),
    ("Gather", [X, ints(2, -1, 0)], {"axis": 1}),
    ("Gather", [X, np.array(1, dtype=np.int64)], {}),
    ("Gemm", [floats(2, 3), floats(3, 4), floats(4)], {}),
    ("Gemm", [floats(3, 2), floats(4, 3), floats(2, 1)], {"alpha": 0.5, "beta": 2.0, "transA": 1, "transB": 1}),
    ("Gemm", [floats(2, 3), floats(3, 4)], {}),
    ("Identity", [X], {}),
    ("LayerNormalization", [X, floats(4), floats(4)], {}),
    ("LayerNormalization", [X, floats(3, 4)], {"axis": 1, "epsilon": 0.1}),
    ("MatMul", [X, floats(4, 5)], {}),
    ("MatMul", [X, floats(2, 4, 5)], {}),
    ("Mod", [ints(7, -7, 9), ints(4, 4, -4)], {}),
    ("Mul", [X, floats(2, 1, 1)], {}),
    ("Neg", [X], {}),
    ("Pow", [X, scalar(2)], {}),
    ("Pow", [X, scalar(3)], {}),
    ("Pow", [np.abs(X), scalar(0.5)], {}),
    ("Pow", [np.abs(X), floats(4)], {}),
    ("Range", [np.array(2, dtype=np.int64), np.array(9, dtype=np.int64), np.array(3, dtype=np.int64)], {}),
    ("ReduceL2", [X], {"axes": [-1]}),
    ("ReduceLogSumExp", [X], {"axes": [1], "keepdims": 0}),
    ("ReduceLogSumExp", [200 * X], {"axes": [0, 2]}),
    ("ReduceMean", [X], {"axes": [-1]}),
    ("ReduceMean", [X], {}),
    ("ReduceSum", [X, ints(1)], {"keepdims": 0}),
    ("ReduceSum", [X], {}),
    ("Reshape", [X, ints(0, -1)], {}),
    ("Reshape", [floats(0, 3), ints(3, 0)], {"allowzero": 1}),
    ("Shape", [X], {}),
    ("Sigmoid", [30 * X], {}),
    ("Sin", [X], {}),
    ("Slice", [X, ints(1), ints(2**63 - 1)], {}),
    ("Slice", [X, ints(-1, 0), ints(-4, 2), ints(2, -2), ints(-2, 1)], {}),
    ("Softmax", [100 * X], {}),
    ("Softmax", [X], {"axis": 1}),
    ("Sqrt", [np.abs(X)], {}),
    ("Squeeze", [floats(1, 3, 1), ints(-1)], {}),
    ("Squeeze", [floats(1, 3, 1)], {}),
    ("Sub", [X, floats(4)], {}),
    ("Tanh", [X], {}),
    ("Transpose", [X], {"perm": [2, 0, 1]}),
    ("Transpose", [X], {}),
    ("Trilu", [X], {}),
    ("Trilu", [X, np.array(-1, dtype=np.int64)], {"upper": 0}),
    ("Unsqueeze", [X, ints(0, -1)], {}),
    ("Where", [X > 0, X, scalar(-1)], {}),
)


def onnx_model(nodes: list[Any], inputs: dict[str, np.ndarray], constants: dict[str, np.ndarray]) -> Any:
    """Of which the output "y" is asked for; the sizes of its inputs are left open."""
    taken = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
        for name, array in inputs.items()
    ]
    kept = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "test", taken, [helper.make_empty_tensor_value_info("y")], kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def written(model: Any, folder: Path, *, rounded: bool = False) -> NumpyGraph:
    write_graph(model.graph, folder / GRAPH, rounded=rounded)
    return NumpyGraph(folder / GRAPH)


def by_onnx_runtime(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session: Any = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["y"], inputs)[0]
    return found


@pytest.mark.parametrize("constant", [False, True], ids=["inputs", "constants"])
@pytest.mark.parametrize(("operator", "inputs", "options"), NODES, ids=[node[0] for node in NODES])
def test_operators_give_what_onnx_runtime_gives(
    tmp_path: Path, operator: str, inputs: list[np.ndarray | None], options: dict[str, Any], constant: bool
) -> None:
    """Whether their other inputs are known when the graph is written or not."""
    arrays_ = {f"x{at}": np.asarray(array) for at, array in enumerate(inputs) if array is not None}
    names = [f"x{at}" if array is not None else "" for at, array in enumerate(inputs)]
    given_ = {name: array for name, array in arrays_.items() if name == "x0" or not constant}
    rest = {name: array for name, array in arrays_.items() if name not in given_}
    model = onnx_model([helper.make_node(operator, names, ["y"], **options)], given_, rest)
    expected = by_onnx_runtime(model, given_)
    found = written(model, tmp_path)(given_)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


def test_every_operator_is_compared() -> None:
    assert {operator for operator, _, _ in NODES} == set(OPERATORS)


@given(st.data())
def test_what_follows_from_constants_is_computed_once(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """And a value that is used again later is still there."""
    shape = data.draw(array_shapes(min_dims=1, max_dims=3, max_side=5))
    x = data.draw(arrays(np.float32, shape, elements=st.floats(-9, 9, width=32)))
    folder = tmp_path_factory.mktemp("graph")
    nodes = [
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(scalar(2))),
        helper.make_node("Add", ["two", "three"], ["five"]),
        helper.make_node("Mul", ["x", "five"], ["z"]),
        helper.make_node("Tanh", ["z"], ["t"]),
        helper.make_node("Sub", ["t", "t"], ["zero"]),
        helper.make_node("Add", ["z", "zero"], ["w"]),
        helper.make_node("Add", ["w", "x"], ["y"]),
    ]
    graph = written(onnx_model(nodes, {"x": x}, {"three": np.array(3, dtype=np.float32)}), folder)
    for _ in range(2):
        np.testing.assert_array_equal(graph({"x": x}), x * 5 + x)
    stored = json.loads((folder / GRAPH).read_text())
    assert [node[0] for node in stored["nodes"]] == ["Mul", "Tanh", "Sub", "Add", "Add"]


def test_large_matrices_are_rounded_to_bfloat16(tmp_path: Path) -> None:
    """As torch rounds. A matrix that is added somewhere, too, keeps its precision."""
    x, y0 = floats(3, 300) / 17, floats(1, 300)
    large, added, odd = (floats(300, columns) / 17 for columns in (300, 300, 401))
    nodes = [
        helper.make_node("MatMul", ["x", "large"], ["a"]),
        helper.make_node("MatMul", ["a", "added"], ["b"]),
        helper.make_node("Add", ["added", "y0"], ["c"]),
        helper.make_node("MatMul", ["b", "c"], ["d"]),
        helper.make_node("MatMul", ["d", "odd"], ["y"]),
    ]
    inputs = {"x": x, "y0": y0}
    model = onnx_model(nodes, inputs, {"large": large, "added": added, "odd": odd})
    rounded_large, rounded_odd = (torch.from_numpy(each).bfloat16().float().numpy() for each in (large, odd))
    expected = x @ rounded_large @ added @ (added + y0) @ rounded_odd
    most = {"rtol": 1e-4, "atol": 1e-5 * np.abs(expected).max()}
    np.testing.assert_allclose(written(model, tmp_path, rounded=True)(inputs), expected, **most)
    stored = json.loads((tmp_path / GRAPH).read_text())
    assert [shape for _, dtype, shape, _ in stored["constants"] if dtype == "<u2"] == [[300, 300], [300, 401]]
    np.testing.assert_allclose(written(model, tmp_path)(inputs), by_onnx_runtime(model, inputs), **most)
    stored = json.loads((tmp_path / GRAPH).read_text())
    assert {dtype for _, dtype, _, _ in stored["constants"]} == {"<f4"}


@pytest.mark.parametrize(
    "node", [helper.make_node("Gelu", ["x"], ["y"]), helper.make_node("Split", ["x"], ["y", "z"], axis=0)]
)
def test_an_operator_that_numpy_lacks_is_named(tmp_path: Path, node: Any) -> None:
    with pytest.raises(NotImplementedError, match=f"numpy does not compute the operator {node.op_type}"):
        written(onnx_model([node], {"x": X}, {}), tmp_path)


@pytest.fixture(scope="module", params=["llama", "clip", "siglip"])
def text_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLM2CLIP_CACHE", str(folder / "cache"))
        if request.param == "llama":
            yield f"dir:{save_model(folder / 'model')}"
        else:
            save_dual(folder / "model", request.param)
            yield f"dir:{folder / 'model'}"


def test_text_towers_give_what_torch_gives(text_model: str) -> None:
    """For batches of any size, of captions of any length, in several threads at once."""
    model = resolve(text_model)
    assert load_text_graph(model, **HERE) is None
    compiled_path(model, "text")
    graph = load_text_graph(model, **HERE)
    assert graph is not None
    tokenizer, torchs = model.tokenizer(), load_encoder(text_model, runtime="torch", device="cpu")
    batches = [CAPTIONS, CAPTIONS[:1], ["a"], [" ".join(CAPTIONS), "a dog"]] * 5
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: graph(tokenizer(batch)._asdict()), batches))
    for batch, vectors in zip(batches, found, strict=True):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(unit, torchs.encode_texts(batch), atol=2e-6)


def test_a_graph_that_does_not_agree_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tower is compiled all the same."""
    monkeypatch.setenv("LLM2CLIP_CACHE", str(tmp_path / "cache"))
    model = resolve(f"dir:{save_model(tmp_path / 'model')}")
    with monkeypatch.context() as patch:
        patch.setitem(OPERATORS, "Sqrt", lambda x: x)
        path = compiled_path(model, "text")
    assert path.exists()
    assert not list(path.parent.glob("graph.*"))
    assert load_text_graph(model, **HERE) is None
    shutil.rmtree(path.parent)
    assert load_text_graph(model, **HERE) is None
    path = compiled_path(model, "text")
    assert load_text_graph(model, **HERE) is not None
    assert load_text_graph(model, runtime="onnx", device="cpu") is None
    data = path.with_name("graph.bin")
    data.write_bytes(data.read_bytes()[:-1] + b"!")
    assert load_text_graph(model, **HERE) is None
    assert towers.has_compiled_text(model, **HERE)
