"""A text tower that numpy computes node by node. Nothing has to be opened, which a process with one caption waits for.

ONNX Runtime packs every matrix before it computes anything, which takes several times as long as a caption does. Here a
matrix is multiplied as it lies in a mapped file. Many captions are faster in ONNX Runtime.

A graph is stored as its nodes in JSON, whose operators are those of `numpy_operators`, and its constants in one file.
"""

import json
import math
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from llm2clip_search.base.mapping import map_file
from llm2clip_search.encoders.numpy_operators import OPERATORS

_ALIGNED = 64
"""Constants begin at multiples of this many bytes."""
_LARGE = 1 << 16
"""Numbers in a matrix from which two threads multiply with it, and it may be rounded; smaller ones take no time."""
_ONE_THREAD = Lock()
"""Held while OpenBLAS is limited to one thread."""


class _Matrix:
    """A large matrix that values are multiplied with: half of its columns by the thread that asks, half by another."""

    def __init__(self, stored: np.ndarray) -> None:
        """float32 ``[rows, columns]``, or uint16 for bfloat16."""
        self._columns = stored.shape[1]
        self._middle = -(-self._columns // 2)
        self._halves = stored[:, : self._middle], stored[:, self._middle :]
        self.largest = 0 if stored.dtype == np.float32 else len(stored) * self._middle
        """Numbers of a half that have to be widened."""

    def product(self, values: np.ndarray, other: Executor, scratch: np.ndarray) -> np.ndarray:
        """float32 ``[..., rows]`` to ``[..., columns]``; ``scratch`` is uint32 ``[2, at least largest]``."""
        out = np.empty((*values.shape[:-1], self._columns), dtype=np.float32)
        second = other.submit(self._multiply, values, 1, out[..., self._middle :], scratch[1])
        self._multiply(values, 0, out[..., : self._middle], scratch[0])
        second.result()
        return out

    def _multiply(self, values: np.ndarray, half: int, out: np.ndarray, scratch: np.ndarray) -> None:
        weights = self._halves[half]
        if weights.dtype != np.float32:
            wide = scratch[: weights.size].reshape(weights.shape)
            weights = np.left_shift(weights, 16, out=wide, dtype=np.uint32).view(np.float32)
        np.matmul(values, weights, out=out)


class NumpyGraph:
    """A graph that `write_graph` wrote. Any number of threads may call it."""

    def __init__(self, path: Path) -> None:
        """Read the nodes, and map the constants.

        Raises:
            OSError: a file cannot be read.
        """
        stored = json.loads(path.read_bytes())
        self.inputs: list[str] = stored["inputs"]
        """Names of the arrays that it takes."""
        self._output: int = stored["output"]
        self._nodes = [(OPERATORS[name], *rest) for name, *rest in stored["nodes"]]
        self._values: list[np.ndarray | _Matrix | None] = [None] * stored["values"]
        data = map_file(_constants(path))
        matrices = set(stored["matrices"])
        for number, dtype, shape, start in stored["constants"]:
            array = data[start : start + math.prod(shape) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
            self._values[number] = _Matrix(array) if number in matrices else array
        self._largest = max((value.largest for value in self._values if isinstance(value, _Matrix)), default=0)

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """The output for arrays by name."""
        from threadpoolctl import threadpool_limits

        values: list[Any] = [*self._values]
        values[: len(self.inputs)] = [arrays[name] for name in self.inputs]
        scratch = np.empty((2, self._largest), dtype=np.uint32)
        # The threads of OpenBLAS wait for each other without sleeping: beside other work on two cores, two of them take
        # twenty times as long as one. The limit is the process's, so that the second of two would keep the first one's.
        with _ONE_THREAD, threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(1) as other:
            for operator, inputs, output, options, used in self._nodes:
                given: list[Any] = [values[number] if number >= 0 else None for number in inputs]
                is_product = isinstance(given[-1], _Matrix)
                values[output] = (
                    given[1].product(given[0], other, scratch) if is_product else operator(*given, **options)
                )
                for number in used:
                    values[number] = None
        found = values[self._output]
        assert isinstance(found, np.ndarray)
        return found


def write_graph(graph: Any, path: Path, *, rounded: bool) -> None:
    """Write a graph of ONNX for `NumpyGraph`, and its constants into a second file beside it.

    Args:
        rounded: store large matrices in bfloat16.

    Raises:
        NotImplementedError: it has an operator that is not one of `numpy_operators`.
    """
    nodes, constants = _folded(graph)
    output = graph.output[0].name
    # A value that is not needed any more gives its memory back.
    last = {name: at for at, node in enumerate(nodes) for name in node.inputs if name and name not in constants}
    numbers: dict[str, int] = {}

    def number(name: str) -> int:
        return numbers.setdefault(name, len(numbers)) if name else -1

    stored: dict[str, Any] = {
        "inputs": [each.name for each in graph.input],
        "output": 0,
        "nodes": [],
        "constants": [],
        "matrices": [],
    }
    for name in stored["inputs"]:
        number(name)
    for at, node in enumerate(nodes):
        used = [number(name) for name in dict.fromkeys(node.inputs) if last.get(name) == at and name != output]
        inputs = [number(name) for name in node.inputs]
        stored["nodes"].append([node.operator, inputs, number(node.output), node.options, used])
    stored["output"] = number(output)
    multipliers = _multipliers(nodes)
    with _constants(path).open("wb") as file:
        for name in sorted(set(constants) & set(numbers)):
            value = np.asarray(constants[name], order="C")
            if name in multipliers and value.dtype == np.float32 and value.ndim == 2 and value.size >= _LARGE:
                stored["matrices"].append(number(name))
                value = _bfloat16(value) if rounded else value
            file.write(bytes(-file.tell() % _ALIGNED))
            stored["constants"].append([number(name), value.dtype.str, value.shape, file.tell()])
            file.write(value.tobytes())
    stored["values"] = len(numbers)
    path.write_text(json.dumps(stored))


class _Node(NamedTuple):
    operator: str
    inputs: list[str]
    """Names of values; empty for one that is left out."""
    output: str
    options: dict[str, Any]


def _folded(graph: Any) -> tuple[list[_Node], dict[str, np.ndarray]]:
    """The nodes of a graph that depend on its inputs, and all constants, those that follow from others included."""
    from onnx import helper, numpy_helper

    constants: dict[str, np.ndarray] = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[_Node] = []
    for node in graph.node:
        options = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        inputs, output = list(node.input), node.output[0]
        if node.op_type == "Constant":
            constants[output] = numpy_helper.to_array(options["value"])
            continue
        if node.op_type not in OPERATORS or node.domain or len(node.output) > 1:
            raise NotImplementedError(f"numpy does not compute the operator {node.op_type} of {node.name}.")
        if node.op_type == "Cast":
            options["to"] = helper.tensor_dtype_to_np_dtype(options["to"]).str
        if node.op_type == "ConstantOfShape":
            name = f"{output}.value"
            constants[name] = numpy_helper.to_array(options.pop("value")).reshape(())
            inputs.append(name)
        if all(name in constants or not name for name in inputs):
            constants[output] = np.asarray(OPERATORS[node.op_type](*map(constants.get, inputs), **options))
        else:
            nodes.append(_Node(node.op_type, inputs, output, options))
    return nodes, constants


def _multipliers(nodes: Iterable[_Node]) -> set[str]:
    """The values that are only ever the second factor of a product of matrices."""
    uses = [(name, node.operator == "MatMul" and at == 1) for node in nodes for at, name in enumerate(node.inputs)]
    return {name for name, _ in uses} - {name for name, is_multiplier in uses if not is_multiplier}


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """bfloat16, which are the upper halves of float32 numbers, to the nearest, or even between two: uint16."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def remove_graph(path: Path) -> None:
    """Remove what `write_graph` has written, all of it or a part."""
    path.unlink(missing_ok=True)
    _constants(path).unlink(missing_ok=True)


def _constants(path: Path) -> Path:
    return path.with_suffix(".bin")
