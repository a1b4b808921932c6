"""How alike the words of two texts are: the ratio of their longest common subsequence, in compiled code.

Texts are compared by their code points and kept as UTF-8. The subsequence is found a machine word of the searched text
at a time.

Letters for shapes: R distinct characters of a text, and one row for all others; W words of 64 of its characters.

Source: Hyyrö 2004, Bit-parallel LCS-length computation revisited; rapidfuzz's `fuzz.ratio` for the score.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import types

from rayfactory.tools.compiled import READ_I32, READ_U8, ROWS_U64, U64, compiled


def ratio(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    """Return 1 - (insertions and deletions that turn one text into the other) / (characters of both), in [0, 1].

    Args:
        a: a text, as `words.encode` gives it.
        b: likewise.
    """
    return float(_ratio(a, b))


@compiled(types.int64(READ_U8))
def num_characters(text):
    """Return the code points of a text in UTF-8."""
    count = 0
    for byte in text:
        count += (byte & 0xC0) != 0x80
    return count


@compiled(types.UniTuple(types.int64, 2)(READ_U8, types.int64))
def _code_point(text, start):
    """Return the code point that begins at `start`, and where the next one does."""
    first = np.int64(text[start])
    if first < 0x80:
        return first, start + 1
    second = np.int64(text[start + 1]) & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, start + 2
    third = np.int64(text[start + 2]) & 0x3F
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, start + 3
    return (first & 0x07) << 18 | second << 12 | third << 6 | (np.int64(text[start + 3]) & 0x3F), start + 4


@compiled(types.int64(READ_I32, types.int64))
def row_of(keys, character):
    """Return the row of a code point."""
    if character < 128:
        return keys[character]
    low, high = 0, (len(keys) - 128) // 2
    while low < high:
        middle = (low + high) // 2
        if keys[128 + 2 * middle] < character:
            low = middle + 1
        else:
            high = middle
    if 128 + 2 * low < len(keys) and keys[128 + 2 * low] == character:
        return keys[128 + 2 * low + 1]
    return 0


@compiled(types.Tuple((ROWS_U64, types.int32[::1]))(READ_U8))
def pattern(text):
    """Return what `common` searches with: uint64[R, W], where each character stands, and int32[keys], their rows.

    The first 128 keys are the rows of ASCII; then come pairs of a code point and its row, in ascending order.
    Row 0 is that of a character that the text does not have.
    """
    length = num_characters(text)
    others = np.empty(length, dtype=np.int32)
    is_there = np.zeros(128, dtype=np.bool_)
    num_others = 0
    at = 0
    while at < len(text):
        character, at = _code_point(text, at)
        if character < 128:
            is_there[character] = True
        else:
            others[num_others] = character
            num_others += 1
    distinct = np.unique(others[:num_others])
    keys = np.zeros(128 + 2 * len(distinct), dtype=np.int32)
    rows = 1
    for character in range(128):
        if is_there[character]:
            keys[character] = rows
            rows += 1
    for i in range(len(distinct)):
        keys[128 + 2 * i] = distinct[i]
        keys[128 + 2 * i + 1] = rows
        rows += 1
    masks_RW = np.zeros((rows, max(1, (length + 63) // 64)), dtype=np.uint64)
    at = 0
    for i in range(length):
        character, at = _code_point(text, at)
        masks_RW[row_of(keys, character), i >> 6] |= np.uint64(1) << np.uint64(i & 63)
    return masks_RW, keys


@compiled(types.int64(types.uint64))
def popcount(word):
    """Return how many bits of a word are set."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@compiled(types.int64(ROWS_U64, READ_I32, U64, READ_U8))
def common(masks_RW, keys, state_W, text):
    """Return the length of the longest common subsequence of a text and that of the pattern; `state_W` is written."""
    num_words = masks_RW.shape[1]
    for w in range(num_words):
        state_W[w] = ~np.uint64(0)
    at = 0
    while at < len(text):
        if text[at] < 128:
            row = np.int64(keys[text[at]])
            at += 1
        else:
            character, at = _code_point(text, at)
            row = np.int64(row_of(keys, character))
        if row == 0:
            continue
        mask_W = masks_RW[row]
        carry = np.uint64(0)
        for w in range(num_words):
            before = state_W[w]
            matches = before & mask_W[w]
            total = before + matches
            total_carried = total + carry
            carry = np.uint64(total < before) | np.uint64(total_carried < total)
            state_W[w] = total_carried | (before - matches)
    length = 0
    for w in range(num_words):
        length += popcount(~state_W[w])
    return length


@compiled(types.float64(types.int64, types.int64))
def score(num_common, num_both):
    """Return the ratio of two texts with `num_both` characters and a common subsequence; rounded as rapidfuzz does."""
    if num_both == 0:
        return 1.0
    return (1.0 - (num_both - 2 * num_common) / num_both) * 100.0 / 100.0


@compiled(types.float64(READ_U8, READ_U8))
def _ratio(a, b):
    masks_RW, keys = pattern(a)
    state_W = np.empty(masks_RW.shape[1], dtype=np.uint64)
    return score(common(masks_RW, keys, state_W, b), num_characters(a) + num_characters(b))
