"""GGUF files of strangers: what they claim is bounded, and what is damaged is refused."""

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from llm2clip_search.encoders.gguf_header import gguf_parameters, gguf_shapes
from llm2clip_search.encoders.llm import load_llm
from llm2clip_search.errors import ModelError


def write(path: Path, *, layers: int = 2, width: int = 8, tokens: int = 9) -> Path:
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_embedding_length(width)
    writer.add_context_length(64)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list([f"token {number}" for number in range(tokens)])
    writer.add_token_scores([0.5] * tokens)
    writer.add_tensor("token_embd.weight", np.ones((tokens, width), dtype=np.float32))
    blocks = np.ones((3, 2 * 34), dtype=np.uint8)
    writer.add_tensor("blk.0.attn_q.weight", blocks, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_shapes_are_those_of_the_format_s_own_reader(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf")
    expected = {tensor.name: tuple(tensor.shape.tolist()) for tensor in GGUFReader(path).tensors}
    assert gguf_shapes(path) == expected == {"token_embd.weight": (8, 9), "blk.0.attn_q.weight": (64, 3)}
    assert gguf_parameters(path) == 8 * 9 + 64 * 3


@pytest.mark.parametrize(("layers", "width", "named"), [(10**6, 8, "block_count"), (2, 1 << 21, "embedding_length")])
def test_sizes_that_no_model_has_are_refused(tmp_path: Path, layers: int, width: int, named: str) -> None:
    path = tmp_path / "a.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_embedding_length(width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match=f"states {named} = "):
        gguf_shapes(path)
    with pytest.raises(ModelError, match=f"states {named} = "):
        load_llm(f"dir:{path}")


HEADER = struct.pack("<4sIQ", b"GGUF", 3, 0)
ONE_FIELD = HEADER + struct.pack("<QQ1s", 1, 1, b"a")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "cut off"),
        (b"GGUX" + bytes(60), "is not a GGUF file of version 2 or 3"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "is not a GGUF file of version 2 or 3"),
        (HEADER + struct.pack("<Q", 1 << 60), "claims 1,152,921,504,606,846,976 fields"),
        (struct.pack("<4sIQQ", b"GGUF", 3, 1 << 40, 0), "claims 1,099,511,627,776 tensors"),
        (HEADER + struct.pack("<QQ", 1, 1 << 50), "bytes of a string"),
        (ONE_FIELD + struct.pack("<IIQ", 9, 8, 1 << 40), "elements of arrays"),
        (ONE_FIELD + struct.pack("<IIQ", 9, 9, 1), "an array of type 9"),
        (ONE_FIELD + struct.pack("<I", 77), "a value of type 77"),
        (ONE_FIELD + struct.pack("<IIQ", 9, 8, 1 << 20), "cut off"),
    ],
)
def test_a_header_that_claims_too_much_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=said):
        gguf_shapes(path)


@settings(max_examples=60, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), byte=st.integers(1, 255))
def test_a_damaged_file_is_loaded_or_refused(tmp_path_factory: pytest.TempPathFactory, where: float, byte: int) -> None:
    path = write(tmp_path_factory.mktemp("gguf") / "a.gguf")
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= byte
    path.write_bytes(data)
    with suppress(ModelError):
        load_llm(f"dir:{path}")
