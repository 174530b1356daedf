"""A text tower that numpy computes node by node. Nothing has to be opened, which a process with one caption waits for.

ONNX Runtime packs every matrix before it computes anything, which takes several times as long as a caption does. Here a
matrix is multiplied as it lies in a mapped file. Many captions are faster in ONNX Runtime.

A graph is stored as its nodes in JSON, whose operators are those of `numpy_operators`, and its constants in one file.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from llm2clip_search.base.mapping import map_file
from llm2clip_search.encoders.numpy_operators import OPERATORS

_ALIGNED = 64
"""Constants begin at multiples of this many bytes."""
_ROUNDED_SIZE = 1 << 16
"""Numbers in a matrix from which it may be rounded; smaller ones take no time."""
_BFLOAT16 = "bfloat16"
"""In place of numpy's name of a type, which it has none for: the upper half of a float32."""

_ONE_THREAD = Lock()


class _Rounded(NamedTuple):
    """A matrix in bfloat16."""

    halves: np.ndarray
    """uint16 ``[rows, columns]``."""


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
        self._values: list[np.ndarray | _Rounded | None] = [None] * stored["values"]
        self._largest = 0
        data = map_file(_constants(path))
        for value, dtype, shape, start in stored["constants"]:
            size = math.prod(shape)
            if dtype == _BFLOAT16:
                self._values[value] = _Rounded(data[start : start + 2 * size].view(np.uint16).reshape(shape))
                self._largest = max(self._largest, size)
            else:
                end = start + size * np.dtype(dtype).itemsize
                self._values[value] = data[start:end].view(dtype).reshape(shape)

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """The output for arrays by name."""
        from threadpoolctl import threadpool_limits

        values = [*self._values]
        values[: len(self.inputs)] = [arrays[name] for name in self.inputs]
        whole = np.empty(self._largest, dtype=np.uint32)

        def read(number: int) -> Any:
            value = values[number] if number >= 0 else None
            if not isinstance(value, _Rounded):
                return value
            out = whole[: value.halves.size].reshape(value.halves.shape)
            return np.left_shift(value.halves, 16, out=out, dtype=np.uint32).view(np.float32)

        # The threads of OpenBLAS wait for each other without sleeping: beside other work on two cores, two of them take
        # twenty times as long as one. The limit is the process's, so that the second of two would keep the first one's.
        with _ONE_THREAD, threadpool_limits(1, user_api="blas"):
            for operator, inputs, output, options, used in self._nodes:
                values[output] = operator(*map(read, inputs), **options)
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

    stored: dict[str, Any] = {"inputs": [each.name for each in graph.input], "output": 0, "nodes": [], "constants": []}
    for name in stored["inputs"]:
        number(name)
    for at, node in enumerate(nodes):
        used = [number(name) for name in dict.fromkeys(node.inputs) if last.get(name) == at and name != output]
        inputs = [number(name) for name in node.inputs]
        stored["nodes"].append([node.operator, inputs, number(node.output), node.options, used])
    stored["output"] = number(output)
    may_round = _multipliers(nodes) if rounded else set()
    with _constants(path).open("wb") as file:
        for name in sorted(set(constants) & set(numbers)):
            value = np.asarray(constants[name], order="C")
            is_rounded = name in may_round and value.dtype == np.float32 and value.size >= _ROUNDED_SIZE
            file.write(bytes(-file.tell() % _ALIGNED))
            dtype = _BFLOAT16 if is_rounded else value.dtype.str
            stored["constants"].append([number(name), dtype, value.shape, file.tell()])
            file.write((_bfloat16(value) if is_rounded else value).tobytes())
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
    """The upper halves of float32 numbers, rounded to the nearest, to even ones between two: uint16."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _constants(path: Path) -> Path:
    return path.with_suffix(".bin")
