"""ListOps (Nangia & Bowman 2018): nested operations on lists of digits, answered by one digit; a puzzle of structure.

`[MAX 2 9 [MIN 4 7 ] 0 ]` is 9. Depth and length are limited so that two cores learn it in minutes; the Long Range Arena
(Tay et al. 2021) sets the same puzzle at lengths of 500 to 2,000.
"""

from __future__ import annotations

import random
import statistics
import zlib
from collections.abc import Callable

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from modelrepo.tasks import Multiclass
from modelrepo.tensors import ShapeRange
from training.data.dataset import Dataset, Split, Tokens
from training.data.tokenizer import UNKNOWN, padded

OPERATIONS: dict[str, Callable[[list[int]], int]] = {
    "[MIN": min,
    "[MAX": max,
    "[MED": lambda digits: int(statistics.median(digits)),  # of an even number of digits: the mean of the middle two, rounded down
    "[SM": lambda digits: sum(digits) % 10,
}
VOCABULARY = {token: number for number, token in enumerate([*map(str, range(10)), *OPERATIONS, "]", UNKNOWN])}
SHORTEST, LONGEST, DEPTH, ARGUMENTS = 8, 40, 3, 5
TRAIN, VALIDATION, TEST = 0, 1, 2


def listops() -> Dataset:
    """20,000 fresh expressions an epoch, 1,000 for validation and 2,000 for the test, of 8 to 40 tokens, 2 or 3 deep.

    Which split an expression may fall in is told by its checksum, so that no test expression is ever trained on. To beat:
    the most frequent answer is right in 11 % of the test, the most frequent to the outermost operation in 25 %.
    """
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Dataset(
        name="listops",
        kind=Tokens(
            vocabulary=len(VOCABULARY),
            length=ShapeRange(axis="length", min=1, opt=20, max=LONGEST),
            tokenizer=str(tokenizer.to_str()),
            description="nested MIN, MAX, MED (median) and SM (sum modulo 10), such as [MAX 2 9 [MIN 4 7 ] 0 ]",
        ),
        task=Multiclass(labels=tuple(map(str, range(10)))),
        train=lambda epoch: expressions(TRAIN, epoch, 20_000),
        validation=expressions(VALIDATION, 0, 1_000),
        test=expressions(TEST, 0, 2_000),
    )


def expressions(part: int, epoch: int, count: int) -> Split:
    """`count` different expressions of one part, the same for the same part and epoch: tokens and mask [N, T], targets [N]."""
    rng = random.Random(f"listops {part} {epoch}")  # one call per token: many times faster here than NumPy's
    found: dict[bytes, int] = {}
    while len(found) < count:
        tokens, value = expression(rng, DEPTH)
        written = bytes(tokens)
        if SHORTEST <= len(tokens) <= LONGEST and part_of(written) == part:
            found[written] = value
    tokens, mask = padded([list(written) for written in found], LONGEST)
    return Split({"tokens": tokens, "mask": mask}, np.array(list(found.values()), np.int64))


def part_of(written: bytes) -> int:
    """The split that an expression belongs to."""
    return {0: VALIDATION, 1: TEST}.get(zlib.crc32(written) % 10, TRAIN)


def expression(rng: random.Random, depth: int) -> tuple[list[int], int]:
    """Tokens and value of an operation on 2 to 5 arguments, of which one in three is again an operation while `depth` lasts."""
    name = rng.choice(list(OPERATIONS))
    tokens, values = [VOCABULARY[name]], []
    for _ in range(rng.randint(2, ARGUMENTS)):
        if depth > 1 and rng.random() < 1 / 3:
            inner, value = expression(rng, depth - 1)
        else:
            value = rng.randrange(10)
            inner = [VOCABULARY[str(value)]]
        tokens += inner
        values.append(value)
    return [*tokens, VOCABULARY["]"]], OPERATIONS[name](values)
