"""Operators of ONNX in numpy, as https://onnx.ai/onnx/operators defines them in opset 17.

They are those that exported text towers consist of. Each takes a node's inputs in their order, None for one that is
left out, and its attributes by name. Types and shapes follow from the inputs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Axes = Sequence[int] | np.ndarray | None


def _axes(axes: Axes) -> Any:
    return None if axes is None else tuple(map(int, axes))


def _arg_max(x: np.ndarray, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Any:
    found = np.argmax(np.flip(x, axis) if select_last_index else x, axis=axis, keepdims=bool(keepdims))
    return x.shape[axis] - 1 - found if select_last_index else found


def _reshape(x: np.ndarray, shape: np.ndarray, *, allowzero: int = 0) -> np.ndarray:
    sizes = shape.tolist()
    return x.reshape(sizes if allowzero else [size or x.shape[axis] for axis, size in enumerate(sizes)])


def _slice(
    x: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> np.ndarray:
    where = [slice(None)] * x.ndim
    along = range(len(starts)) if axes is None else axes.tolist()
    strides = [1] * len(starts) if steps is None else steps.tolist()
    for axis, start, end, step in zip(along, starts.tolist(), ends.tolist(), strides, strict=True):
        where[axis] = slice(start, end, step)
    return x[tuple(where)]


def _flatten(x: np.ndarray, *, axis: int = 1) -> np.ndarray:
    return x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1)


def _expand(x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _divide(x: np.ndarray, y: np.ndarray) -> Any:
    return x // y if np.issubdtype(x.dtype, np.integer) else x / y


def _power(x: np.ndarray, exponent: np.ndarray) -> Any:
    # A product takes a fiftieth of the time of numpy's power.
    if exponent.ndim == 0 and exponent in (2, 3):
        return x * x if exponent == 2 else x * x * x
    return np.power(x, exponent).astype(x.dtype, copy=False)


def _erf(x: np.ndarray) -> Any:
    """Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26; the error is at most 1.5e-7."""
    t = 1 / (1 + np.float32(0.3275911) * np.abs(x))
    series = np.zeros_like(t)
    for factor in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592):
        series = (series + np.float32(factor)) * t
    return np.copysign(1 - series * np.exp(-x * x), x)


def _sigmoid(x: np.ndarray) -> Any:
    return np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))


def _softmax(x: np.ndarray, *, axis: int = -1) -> Any:
    out = np.exp(x - x.max(axis=axis, keepdims=True))
    out /= out.sum(axis=axis, keepdims=True)
    return out


def _over_axes(reduce: Callable[..., Any]) -> Callable[..., Any]:
    """A reduction as ONNX takes its arguments. ``axes`` is an input of one operator and an attribute of the others."""

    def operator(x: np.ndarray, axes: Axes = None, *, keepdims: int = 1) -> Any:
        return reduce(x, axis=_axes(axes), keepdims=bool(keepdims))

    return operator


def _layer_norm(
    x: np.ndarray, scale: np.ndarray, bias: np.ndarray | None = None, *, axis: int = -1, epsilon: float = 1e-5
) -> np.ndarray:
    over = tuple(range(axis % x.ndim, x.ndim))
    centred = x - x.mean(axis=over, keepdims=True)
    variance = (centred * centred).mean(axis=over, keepdims=True)
    out: np.ndarray = centred / np.sqrt(variance + np.float32(epsilon)) * scale
    return out if bias is None else out + bias


def _gemm(
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 - the attribute's name
    transB: int = 0,  # noqa: N803
) -> np.ndarray:
    product: np.ndarray = np.float32(alpha) * ((a.T if transA else a) @ (b.T if transB else b))
    return product if c is None else product + np.float32(beta) * c


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "Add": np.add,
    "ArgMax": _arg_max,
    "Cast": lambda x, to: x.astype(to, copy=False),
    "Clip": lambda x, low=None, high=None: np.clip(x, low, high),
    "Concat": lambda *parts, axis: np.concatenate(parts, axis=axis),
    "ConstantOfShape": lambda shape, value: np.full(shape.tolist(), value),
    "Cos": np.cos,
    "Div": _divide,
    "Equal": np.equal,
    "Erf": _erf,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": lambda x, indices, axis=0: np.take(x, indices, axis=axis),
    "Gemm": _gemm,
    "Identity": lambda x: x,
    "LayerNormalization": _layer_norm,
    "MatMul": np.matmul,
    "Mod": np.mod,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pow": _power,
    "Range": lambda start, stop, step: np.arange(start, stop, step, dtype=start.dtype),
    "ReduceL2": _over_axes(lambda x, **how: np.sqrt(np.sum(x * x, **how))),
    "ReduceLogSumExp": _over_axes(np.logaddexp.reduce),
    "ReduceMean": _over_axes(np.mean),
    "ReduceSum": _over_axes(np.sum),
    "Reshape": _reshape,
    "Shape": lambda x: np.array(x.shape, dtype=np.int64),
    "Sigmoid": _sigmoid,
    "Sin": np.sin,
    "Slice": _slice,
    "Softmax": _softmax,
    "Sqrt": np.sqrt,
    "Squeeze": lambda x, axes=None: np.squeeze(x, axis=_axes(axes)),
    "Sub": np.subtract,
    "Tanh": np.tanh,
    "Transpose": lambda x, perm=None: np.transpose(x, perm),
    "Trilu": lambda x, k=0, upper=1: (np.triu if upper else np.tril)(x, int(k)),
    "Unsqueeze": lambda x, axes: np.expand_dims(x, _axes(axes)),
    "Where": np.where,
}
"""Numpy's function by the operator's name."""
