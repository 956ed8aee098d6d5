"""Every format that a core can have is read back from its configuration word, under its own name."""

from __future__ import annotations

import pytest

from halfulp.hw.format_words import format_from_word, format_word
from halfulp.numerics.formats import FORMATS, get_format

NAMES = [
    *FORMATS.names(),
    *(f"{sign}int{width}" for sign in ("", "u") for width in range(2, 33)),
    *(f"fixed{i}.{f}" for i in range(1, 33) for f in range(33 - i) if i + f > 1),
    *(f"posit{width}_{e}" for width in range(3, 17) for e in range(3)),
    *(f"log{width}_{f}" for width in range(3, 17) for f in range(max(width - 9, 0), width - 1)),
    *(f"e{x}m{y}{specials}{sub}" for x in (2, 5, 8) for y in (1, 5, 23) for specials in ("", "-ieee", "-fn", "-finite")
      for sub in ("", "-nosub")),
    "e1m2-finite",
    "e5m0-fn",
]  # fmt: skip


def test_every_format_is_read_back() -> None:
    words = {}
    for name in NAMES:
        fmt = get_format(name)
        word = format_word(fmt)
        assert word < 1 << 32
        assert format_from_word(word) == fmt
        assert words.setdefault(word, fmt) == fmt, f"{fmt} and {words[word]} share a word"


@pytest.mark.parametrize("word", [0, 8, 0x2102, 0x213, 0x114, 0x105, 0xE07, 0x6001])
def test_words_of_no_format(word: int) -> None:
    with pytest.raises(ValueError, match=f"{word:#010x} describes no format"):
        format_from_word(word)
