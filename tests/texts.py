"""Texts of every kind and length, on which implementations are compared."""

# ruff: noqa: RUF001  -- the texts are in many scripts, some of them on purpose hard to tell apart

import itertools
from collections.abc import Callable

import numpy as np

QUESTION = "Which planet is known as the Red Planet?"

SENTENCES = (
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "The user moved from Berlin to Munich last year and works as an engineer.",
    "Der Zug nach Köln fährt um 7:45 Uhr von Gleis 12 ab, hoffentlich pünktlich.",
    "L'été dernier, nous avons mangé des crêpes près de l'église.",
    "¿Dónde está la biblioteca? Mañana abre a las nueve.",
    "Я предпочитаю чай, а не кофе.",
    "Το καλοκαίρι θα πάμε στο νησί με το πλοίο.",
    "הפגישה נדחתה ליום רביעי בשעה 14:00.",
    "انتقل الاجتماع إلى يوم الأربعاء.",
    "मुझे सुबह बगीचे में टहलना पसंद है।",
    "ฉันชอบอ่านหนังสือในห้องสมุด",
    "我更喜欢在下午喝茶，而不是咖啡。",
    "図書館は午前九時に開きます。",
    "회의는 수요일 오후 두 시로 옮겨졌습니다.",
)

ODD_TEXTS = (
    "",
    " ",
    "a",
    "42",
    "  two  spaces,\ta tab,\n\na blank line and a space at the end ",
    "🎉🎂 family 👨‍👩‍👧‍👦 flag 🇩🇪 thumb 👍🏽",
    "café cafe\u0301 \ufb01ligature Ｆｕｌｌｗｉｄｔｈ naïve",
    "<bos> in a text <eos> <mask> [CLS] [SEP] <start_of_turn>",
    "\u2581\u2581 and <0x41> are written out",
    "nul \x00 bell \x07 zero\u200bwidth soft\u00adhyphen",
    "https://example.com/a/very-long/path?query=%7B1%7D&x=2#fragment",
    "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen",
    "def add(a: int, b: int) -> int:\n    return a + b  # sum\n",
    "SELECT id, name FROM users WHERE created_at >= '2024-01-01' ORDER BY id DESC;",
    '{"id": 7, "tags": ["x", "y"], "nested": {"ok": true, "value": -1.5e-3}}',
)

# Each adds a token or a few to any text, so that one of them always fits.
_FILLERS = (" 7", "7", ".", " a")


def text_of(tokens: int, count_tokens: Callable[[str], int], seed: int = 0) -> str:
    """A text of exactly so many tokens, as `count_tokens` counts them, made of known words.

    Raises:
        ValueError: no text of so many tokens was found.
    """
    generator = np.random.default_rng(seed)
    words = " ".join(SENTENCES).split()
    text = str(generator.choice(words))
    if count_tokens(text) > tokens:
        text = ""
    while (count := count_tokens(text)) < tokens:
        additions = itertools.chain([f" {generator.choice(words)}"], _FILLERS)
        longer = (text + addition for addition in additions)
        fitting = (text for text in longer if count < count_tokens(text) <= tokens)
        found = next(fitting, None)
        if found is None:
            raise ValueError(f"no text of {tokens:,} tokens begins with {text[:60]!r}")
        text = found
    return text
