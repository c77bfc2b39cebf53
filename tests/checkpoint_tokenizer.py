"""Trains a tokenizer with the layout of Gemma's, on text that it makes up.

The tokenizer of the real model cannot be downloaded by a test. This one has its normalizer, its
special tokens and their ids, its byte fallback and its kind of merges; only the words differ.
"""

# ruff: noqa: RUF001  -- the samples are written in many scripts

import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SPACE = "▁"
PAD, EOS, BOS, UNK, MASK = "<pad>", "<eos>", "<bos>", "<unk>", "<mask>"
SPECIAL_TOKENS = (PAD, EOS, BOS, UNK, MASK, "<start_of_turn>", "<end_of_turn>")

_ENCLOSING = ("table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td")
_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6", "blockquote")
_INLINE = ("strong", "em", "b", "i", "u", "s", "sub", "sup", "code")
_PAGE = ("a", "html", "body", "img", "span", "bbox", "ul", "li", "div", "iframe", "footer")
TAGS = tuple(
    f"<{slash}{name}>"
    for names in (_ENCLOSING, _HEADINGS, _INLINE, _PAGE)
    for slash in ("", "/")
    for name in names
)

# The first 494 tokens of Gemma 3, in order. The trained pieces follow.
ADDED_TOKENS = (
    *SPECIAL_TOKENS[:5],
    "[multimodal]",
    *(f"<unused{index}>" for index in range(99)),
    *SPECIAL_TOKENS[5:],
    *("\n" * count for count in range(1, 32)),
    *(SPACE * count for count in range(2, 32)),
    *TAGS,
)
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
RESERVED_TOKENS = ADDED_TOKENS + BYTE_TOKENS

# Gemma ends its vocabulary with <unused99> to <unused6241>: one token in 43.
FIRST_UNUSED = 99
UNUSED_SHARE = 43

# Article 1 of the Universal Declaration of Human Rights, in 22 languages of 16 scripts.
SAMPLES = (
    "All human beings are born free and equal in dignity and rights. They are endowed with reason "
    "and conscience and should act towards one another in a spirit of brotherhood.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und "
    "Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de "
    "raison et de conscience et doivent agir les uns envers les autres dans un esprit de "
    "fraternité.",
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están "
    "de razón y conciencia, deben comportarse fraternalmente los unos con los otros.",
    "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni "
    "obdarzeni rozumem i sumieniem i powinni postępować wobec innych w duchu braterstwa.",
    "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler "
    "ve birbirlerine karşı kardeşlik zihniyeti ile hareket etmelidirler.",
    "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền. Mọi con người đều "
    "được tạo hoá ban cho lý trí và lương tâm và cần phải đối xử với nhau trong tình anh em.",
    "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и "
    "совестью и должны поступать в отношении друг друга в духе братства.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. Είναι "
    "προικισμένοι με λογική και συνείδηση.",
    "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון, לפיכך חובה "
    "עליהם לנהוג איש ברעהו ברוח של אחווה.",
    "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل "
    "بعضهم بعضا بروح الإخاء.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और "
    "अन्तरात्मा की देन प्राप्त है।",
    "সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে। তাঁদের বিবেক এবং বুদ্ধি আছে।",
    "மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்; அவர்கள் மதிப்பிலும் உரிமைகளிலும் சமமானவர்கள்.",
    "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును జన్మతః స్వతంత్రులును సమానులును నగుదురు.",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม",
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. "
    "인간은 천부적으로 이성과 양심을 부여받았다.",
    "ყველა ადამიანი იბადება თავისუფალი და თანასწორი თავისი ღირსებითა და უფლებებით.",
    "Բոլոր մարդիկ ծնվում են ազատ ու հավասար իրենց արժանապատվությամբ ու իրավունքներով։",
    "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው። የተፈጥሮ ማስተዋልና ሕሊና ስላለው አንዱ ሌላውን መመልከት ይገባዋል።",
)

CODE = (
    "def embed(self, texts: list[str]) -> np.ndarray:\n    return self.run(texts)[0]\n",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }  // inner product\n",
    'import json\nfrom pathlib import Path\nprint(json.dumps({"id": 42, "tags": ["x", "y"]}))\n',
    "SELECT name, count(*) FROM memories WHERE user_id = $1 GROUP BY name ORDER BY 2 DESC;\n",
    "export const fetchAll = async (url) => { const r = await fetch(url); return r.json(); };\n",
    "<div class=\"row\"><a href='https://example.com/path?q=1&amp;p=2'>link</a></div>\n",
)

# The words of the model's prompts, which are whole tokens there, then the commonest of English.
ENGLISH = """
task search result query title none text document classification clustering code retrieval
sentence similarity summarization question answering fact checking the of and to in a is that for
it as was with be by on not he his but at are this have from or had an they which one you were her
all she there would their we him been has when who will more no if out so said what up its about
into than them can only other new some could time these two may then do first any my now such like
our over man me even most made after also did many before must through back years where much your
way well down should because each just those people how too little state good very make world
still own see men work long get here between both life being under never day same another know
while last might us great old year off come since against go came right used take three planet red
known why memory user agent server model token word water house light city school family country
night story music language number point hand part place case week company system program
government problem
"""
SUFFIXES = ("", "s", "ed", "ing", "er", "ly", "ness", "ful")

# Languages that write no spaces would make one word of a text.
LONGEST_WORD = 12


def train_tokenizer(vocabulary: int, seed: int) -> Tokenizer:
    """A tokenizer of exactly `vocabulary` tokens, with the layout of Gemma's.

    The reserved tokens come first, then merged pieces from common to rare, then characters, then
    unused tokens for what training leaves free.
    """
    trained = vocabulary - len(RESERVED_TOKENS) - vocabulary // UNUSED_SHARE
    tokens = [*RESERVED_TOKENS, *_train_pieces(trained, seed)]
    fillers = (f"<unused{index}>" for index in itertools.count(FIRST_UNUSED))
    unused = list(itertools.islice(fillers, vocabulary - len(tokens)))
    return _gemma_tokenizer([*tokens, *unused], unused)


def made_up_words(count: int, seed: int) -> list[str]:
    """At least `count` distinct words, a third like English ones, the rest like the others."""
    generator = np.random.default_rng(seed)
    english, *others = [_followers(sample) for sample in SAMPLES]
    other = itertools.cycle(others)
    words: dict[str, None] = {}
    while len(words) < count:
        for followers in (english, next(other), next(other)):
            words.update(dict.fromkeys(_words(followers, generator.random(4_096))))
    return list(words)


def _train_pieces(count: int, seed: int) -> list[str]:
    """At most `count` pieces: merged ones from common to rare, then characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    # SentencePiece keeps words, digits and runs of signs apart while it trains.
    kinds = rf"{SPACE}?[\p{{L}}\p{{M}}]+|\p{{N}}|{SPACE}?[^\s\p{{L}}\p{{M}}\p{{N}}{SPACE}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(kinds), "removed", invert=True)
    trainer = trainers.BpeTrainer(
        vocab_size=count,
        min_frequency=0,
        initial_alphabet=_alphabet(count),
        max_token_length=24,
        show_progress=False,
    )
    lines = list(_corpus(count, seed))
    # One by one, the library's threads now and then wait for Python's lock for a minute.
    texts = ["\n".join(lines[start : start + 1_000]) for start in range(0, len(lines), 1_000)]
    tokenizer.train_from_iterator(texts, trainer)
    ranked = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    reserved = set(RESERVED_TOKENS)
    pieces = [token for token, _ in ranked if token not in reserved]
    merged = [piece for piece in pieces if len(piece) > 1]
    return merged + [piece for piece in pieces if len(piece) == 1]


def _alphabet(count: int) -> list[str]:
    """Single characters that are tokens although the text may lack them, where there is room."""
    blocks = [range(0x21, 0x7F)]
    if count > 100_000:
        blocks += [
            range(0xA1, 0x250),  # Latin
            range(0x391, 0x3CA),  # Greek
            range(0x400, 0x460),  # Cyrillic
            range(0x2010, 0x2040),  # punctuation
            range(0x2190, 0x2300),  # arrows and mathematics
            range(0x3041, 0x3100),  # kana
            range(0x4E00, 0xA000),  # ideographs
            range(0xAC00, 0xB800),  # some of the Korean syllables
            range(0x1F300, 0x1F650),  # emoji
        ]
    return [SPACE, *(chr(code) for code in itertools.chain.from_iterable(blocks))]


def _corpus(count: int, seed: int) -> Iterator[str]:
    """Text whose words follow Zipf's law: the n-th is about 1/n as frequent as the first."""
    yield from SAMPLES * 20
    yield from CODE * 20
    common = [word + suffix for suffix in SUFFIXES for word in ENGLISH.split()]
    words = dict.fromkeys(common + made_up_words(count, seed))
    for rank, word in enumerate(words, start=1):
        repeats = 1 + count // (4 * rank)
        yield f" {word}" * repeats
        yield f" {word.capitalize()}" * (repeats // 4)
        yield f"\n{word}" * (repeats // 8)


def _followers(sample: str) -> dict[str, str]:
    """The letters that follow each letter in a sample; a space begins and ends a word."""
    # Letters, and the marks by which many scripts write vowels.
    kept = [letter for letter in sample.lower() if unicodedata.category(letter)[0] in "LMZ"]
    followers: dict[str, str] = {}
    for letter, follower in itertools.pairwise([" ", *kept, " "]):
        followers[letter] = followers.get(letter, "") + follower
    return followers


def _words(followers: dict[str, str], draws: Iterable[float]) -> Iterator[str]:
    word = ""
    for draw in draws:
        after = followers[word[-1:] or " "]
        letter = after[int(draw * len(after))]
        if letter != " ":
            word += letter
        if letter == " " or len(word) == LONGEST_WORD:
            if len(word) > 1:
                yield word
            word = ""


def _gemma_tokenizer(tokens: Sequence[str], unused: Sequence[str]) -> Tokenizer:
    ids = {token: index for index, token in enumerate(tokens)}
    model = models.BPE(
        vocab=ids, merges=_merges(ids), unk_token=UNK, fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    # It never splits, since the normalizer leaves no space: Gemma merges a text as one word.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS}:0 $A:0 {EOS}:0",
        pair=f"{BOS}:0 $A:0 {EOS}:0 {BOS}:1 $B:1 {EOS}:1",
        special_tokens=[(BOS, ids[BOS]), (EOS, ids[EOS])],
    )
    tokenizer.add_tokens(
        [
            AddedToken(token, normalized=False, special=token in SPECIAL_TOKENS)
            for token in (*ADDED_TOKENS, *unused)
        ]
    )
    return tokenizer


def _merges(ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to join two tokens into a third, by the rank of what it makes.

    This is how transformers converts SentencePiece's model, which has ranks of pieces and no
    merges. It makes about two merges a piece (the real file: 514,906).
    """
    first = len(RESERVED_TOKENS)
    blanks = [SPACE * count for count in range(2, 32)]
    pieces = itertools.chain(blanks, (token for token, index in ids.items() if index >= first))
    return [
        (piece[:cut], piece[cut:])
        for piece in pieces
        if not piece.startswith("<unused")
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
