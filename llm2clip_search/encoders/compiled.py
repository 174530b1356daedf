"""Towers as ONNX Runtime runs them on this machine: prepared once from a portable ONNX file, then opened quickly.

Opening the portable file of a language model takes a second, in which ONNX Runtime rewrites the graph and packs every
matrix. Four things are therefore done beforehand, to text towers only:

- The table of token embeddings is moved out of the graph into a file of its own, of which only the rows of a caption's
  tokens are read. ONNX Runtime would pass over all of it in each step below.
- If that is asked for, the weights of the language model's blocks become 8-bit integers with a scale for each `BLOCK`
  of a column, which are a quarter of the size. ONNX Runtime multiplies them with the activations of a token in 8 bits
  as well, whose scales are those of the token alone: the embedding of a caption does not depend on others in its batch.
- The graph is rewritten and saved.
- It is saved a second time, for numpy: ONNX Runtime still packs every matrix of what it opens (see `numpy_graph`).
"""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm2clip_search.base.mapping import FileRows, open_rows

logger = logging.getLogger(__name__)

WEIGHTS = "weights.bin"
"""File beside that of a tower, which holds its large tensors and is mapped into memory."""
MAPPED_SIZE = 1 << 16
"""Size in bytes from which a tensor is stored in `WEIGHTS`; smaller ones stay in the graph."""
BLOCK = 16
"""Weights of one column that share a scale. With 32, `nano`'s vectors change by 60 % more and are made 10 % faster."""
QUANTISED_SIZE = 1 << 16
"""Weights of a matrix from which it is quantised; smaller ones take no time."""
GRAPH = "graph.json"
"""File beside that of a tower, for numpy. It is missing if numpy cannot compute the tower."""
_EMBEDDED = ".embedded"
"""Ending of the input that takes the embeddings of the tokens in another one."""
_LLM_BLOCK = re.compile(r"/model/layers\.\d+/")
"""In the names of nodes that are part of a block of a language model of transformers."""


FORM = "3"
"""Names the form of prepared towers."""


def version() -> str:
    """Names the form of prepared towers and the library that reads them; those of another version are of no use."""
    import onnxruntime

    return f"{FORM}-{onnxruntime.__version__}"


def prepare(portable: Path, path: Path, *, quantised: bool) -> None:
    """Write a text tower for `open_tower`.

    Args:
        portable: the tower's ONNX file, in whose folder a temporary one is written.
        path: the file to write, with others beside it; those of an earlier call are replaced.
        quantised: store the weights of a language model's blocks as 8-bit integers, and token embeddings as float16;
            for numpy, weights are bfloat16.
    """
    import onnx
    import onnxruntime

    from llm2clip_search.encoders.numpy_graph import write_graph

    model = onnx.load(portable)
    _move_tables(model.graph, path, rounded=quantised)
    try:
        write_graph(model.graph, path.with_name(GRAPH), rounded=quantised)
    except Exception:  # it computes fewer operators than ONNX Runtime does
        logger.debug("%s is for ONNX Runtime alone.", path, exc_info=True)
    if quantised:
        _quantise(model)
    plain = portable.with_name("plain.onnx")
    write_onnx(model, plain, weights="plain.bin")
    del model
    options = _options()
    # The level below "all", whose rewriting suits the processor that it runs on: a cache may be on a shared disk.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", str(MAPPED_SIZE)
    )
    path.with_name(WEIGHTS).unlink(missing_ok=True)
    onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])


def open_tower(path: Path, *, prepared: bool) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """The tower of an ONNX file, from named arrays to float32 ``[n, dim]``.

    Args:
        prepared: `prepare` wrote it, so that nothing is left to rewrite.
    """
    import onnxruntime

    options = _options()
    if prepared:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return _with_tables([node.name for node in session.get_inputs()], path, lambda fed: session.run(None, fed)[0])


def open_graph(path: Path) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """The tower of the `GRAPH` that `prepare` wrote, computed by numpy.

    Raises:
        OSError: a file cannot be read.
    """
    from llm2clip_search.encoders.numpy_graph import NumpyGraph

    graph = NumpyGraph(path)
    return _with_tables(graph.inputs, path, graph)


def _with_tables(
    inputs: Sequence[str], path: Path, compute: Callable[[dict[str, np.ndarray]], np.ndarray]
) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """A tower whose ``inputs`` are the tokens and their rows of the tables beside ``path``."""
    tables = {name: open_rows(path.with_name(_table(name))) for name in inputs if name.endswith(_EMBEDDED)}

    def run(arrays: dict[str, np.ndarray]) -> np.ndarray:
        return compute({name: _rows(tables[name], name, arrays) if name in tables else arrays[name] for name in inputs})

    return run


def write_onnx(model: Any, path: Path, *, weights: str = WEIGHTS) -> None:
    """Write an ONNX model; a second file, named ``weights``, holds its large tensors."""
    import onnx

    (path.parent / weights).unlink(missing_ok=True)  # which onnx would append to
    onnx.save_model(
        model,
        path,
        save_as_external_data=True,
        location=weights,
        size_threshold=MAPPED_SIZE,
        convert_attribute=False,
    )


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():  # torch's tower keeps to it too
        options.intra_op_num_threads = int(threads)
    return options


def _rows(table: FileRows | np.ndarray, name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    rows: np.ndarray = table[arrays[name.removesuffix(_EMBEDDED)]].astype(np.float32)
    return rows


def _table(name: str) -> str:
    return f"{name}.npy"


def _move_tables(graph: Any, path: Path, *, rounded: bool) -> None:
    """Replace each look-up of an input's values in a table by a further input, and write the table beside ``path``.

    It is stored as float16 if that changes nothing, or if it may be ``rounded`` and its values have the range, which
    changes them by a two-thousandth at most.
    """
    from onnx import TensorProto, helper, numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    inputs = {node.name for node in graph.input}
    for node in list(graph.node):
        if node.op_type != "Gather" or node.input[0] not in tensors or node.input[1] not in inputs:
            continue
        tensor, tokens = tensors[node.input[0]], node.input[1]
        users = sum(name == tensor.name for other in graph.node for name in other.input)
        if len(tensor.dims) != 2 or users > 1:
            continue
        table, name = numpy_helper.to_array(tensor), f"{tokens}{_EMBEDDED}"
        with np.errstate(over="ignore"):
            half = table.astype(np.float16)
        fits = np.isfinite(half).all() if rounded else np.array_equal(half.astype(np.float32), table)
        np.save(path.with_name(_table(name)), half if fits else table)
        graph.node.remove(node)
        graph.initializer.remove(tensor)
        shape = ["n", "length", table.shape[1]]
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        for other in graph.node:
            for at, used in enumerate(other.input):
                if used == node.output[0]:
                    other.input[at] = name


def _quantise(model: Any) -> None:
    """Store the matrices of a language model's blocks as 8-bit integers."""
    from onnx import helper, numpy_helper

    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in tensors or not _LLM_BLOCK.search(node.name):
            continue
        tensor = tensors[node.input[1]]
        if len(tensor.dims) != 2 or np.prod(tensor.dims) < QUANTISED_SIZE:
            continue
        weights, name = numpy_helper.to_array(tensor), tensor.name
        if f"{name}.integers" not in tensors:
            integers, scales = quantised_columns(weights)
            parts = {f"{name}.integers": integers, f"{name}.scales": scales.reshape(-1)}
            tensors |= {part: numpy_helper.from_array(array, part) for part, array in parts.items()}
            graph.initializer.extend(tensors[part] for part in parts)
        node.op_type, node.domain = "MatMulNBits", "com.microsoft"
        node.input[1:] = [f"{name}.integers", f"{name}.scales"]
        # Level 4 of accuracy is 8-bit activations; without it the weights are converted to float32 at each use.
        numbers = {"K": weights.shape[0], "N": weights.shape[1], "bits": 8, "block_size": BLOCK, "accuracy_level": 4}
        node.attribute.extend(helper.make_attribute(key, value) for key, value in numbers.items())
    used = {name for node in graph.node for name in node.input}
    for tensor in list(graph.initializer):
        if tensor.name not in used:
            graph.initializer.remove(tensor)
    if not any(opset.domain == "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def quantised_columns(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8-bit integers of a matrix float32 ``[rows, columns]``, and their scales.

    Returns:
        uint8 ``[columns, blocks, BLOCK]``, where 128 stands for zero and rows beyond the last are zero, and float32
        ``[columns, blocks]``: a weight is ``(integer - 128) * scale``.
    """
    rows, columns = weights.shape
    blocks = -(-rows // BLOCK)
    padded = np.zeros((columns, blocks * BLOCK), dtype=np.float32)
    padded[:, :rows] = weights.T
    padded = padded.reshape(columns, blocks, BLOCK)
    scales = np.abs(padded).max(axis=2) / np.float32(127)
    divisors = np.where(scales > 0, scales, np.float32(1))
    return (np.rint(padded / divisors[:, :, None]) + 128).astype(np.uint8), scales
