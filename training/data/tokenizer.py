"""Text to tokens: a tokenizer learnt from texts, or plain bytes. Both are the text of a tokenizer.json, so one path serves both."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

UNKNOWN = "<unk>"


def learn_bpe(texts: Sequence[str], vocabulary: int, *, lowercase: bool = False) -> str:
    """A tokenizer.json of byte pair encoding (Sennrich et al. 2016) over the bytes of words (Radford et al. 2019, section 2.2).

    Its tokens are `UNKNOWN`, which is 0, the 256 bytes, so that no text is beyond it, and pieces of words that occur at least
    twice in `texts`, at most `vocabulary` tokens in all. The same texts in the same order give the same tokenizer.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocabulary < 1 + len(alphabet):
        raise ValueError(f"a vocabulary of {vocabulary} has no room for the 256 bytes and the unknown token; give at least 257")
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # the first word is the token it is elsewhere
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=[UNKNOWN], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = []  # else whoever writes "<unk>" in a text gets that very token
    return json.dumps(document, ensure_ascii=False)


def byte_tokens(*, lowercase: bool = False) -> str:
    """A tokenizer.json whose token is the byte of the text's UTF-8, 0 to 255; `UNKNOWN` is 256."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {UNKNOWN: 256}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token=UNKNOWN))
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return str(tokenizer.to_str())


def token_ids(tokenizer_json: str, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of each text, of any number; a text without any, such as an empty one, is one `UNKNOWN`."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    nothing = [tokenizer.token_to_id(UNKNOWN)]
    return [encoding.ids or nothing for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def padded(ids: Sequence[Sequence[int]], max_length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """tokens [N, T] int64 and mask [N, T] bool, with T the longest of `ids` or `max_length`, beyond which tokens are cut off."""
    lengths = np.array([min(len(row), max_length) for row in ids], np.int64)
    mask = np.arange(lengths.max(initial=1)) < lengths[:, None]  # [N, T]
    tokens = np.zeros(mask.shape, np.int64)
    tokens[mask] = [token for row in ids for token in row[:max_length]]
    return tokens, mask


def encode(tokenizer_json: str, texts: Sequence[str], max_length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """tokens [N, T] int64 and mask [N, T] bool of N texts, each of at least one token and cut after `max_length`."""
    return padded(token_ids(tokenizer_json, texts), max_length)
