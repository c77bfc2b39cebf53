import re
from datetime import datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.memory.words import (
    MAX_QUERY_WORDS,
    STOP_WORDS,
    Candidate,
    WordMatch,
    indexed_words,
    query_words_of,
    rank_by_words,
    words_of,
)
from tests.memory.memories import NOW, at

TOKEN = re.compile(r"[a-z0-9_]+")

# What analysers of databases stop at: Lucene's longest token, in characters.
LONGEST_TOKEN = 255

LATIN = st.text(alphabet="abc ABC-_.'\u2019,\n09ßﬁŒæÅéñøİ™℃")
SCRIPTS = st.one_of(
    st.text(),
    st.text(alphabet="abc ABC-_.'\u2019,\n09"),
    st.text(alphabet="ßﬁŒæÅéñøİıſ™℃㎆ℌⅧ²½"),
    st.text(alphabet="日本語テスト東京がパー、ｶﾀｶﾅ"),
    st.text(alphabet="สวัสดีชาวโลก"),
    st.text(alphabet="हिन्दीमें"),
    st.text(alphabet="한국어서울에서"),
    st.text(alphabet="\u05e9\u05dc\u05d5\u05dd\u0645\u0631\u062d\u0628\u0627 123\u0663"),
    st.text(alphabet="🎉👩‍💻❤️🇯🇵"),
)


def candidate(id: str, text: str, created_at: datetime = NOW) -> Candidate:
    return Candidate(id, created_at, indexed_words(None, text))


def finds(query: str, text: str) -> bool:
    return not set(query_words_of(query)).isdisjoint(words_of(text))


@given(text=SCRIPTS)
def test_tokens_have_the_characters_that_every_store_keeps(text: str) -> None:
    for token in (*words_of(text), *query_words_of(text)):
        assert TOKEN.fullmatch(token), token


@given(text=st.text(alphabet="aжꙮ𐐀", min_size=60, max_size=100))
def test_no_token_is_longer_than_a_store_can_keep_whole(text: str) -> None:
    assert all(len(token) <= LONGEST_TOKEN for token in words_of(text))


@given(text=SCRIPTS)
def test_a_text_is_found_by_all_that_it_says(text: str) -> None:
    assert set(query_words_of(text)) <= set(words_of(text))
    assert bool(query_words_of(text)) == bool(words_of(text))


@given(
    words=st.lists(
        st.from_regex(r"[a-zäéøß\u0430-\u044f\u03b1-\u03c90-9]{1,12}", fullmatch=True), min_size=1
    )
)
def test_a_text_is_found_by_each_of_its_words(words: list[str]) -> None:
    text = " ".join(words)
    for word in words:
        assert finds(word, text)
        assert finds(word.upper(), text)


@given(title=st.none() | LATIN, content=LATIN)
def test_the_index_holds_the_words_of_title_and_content_in_order(
    title: str | None, content: str
) -> None:
    assert indexed_words(title, content).split() == [*words_of(title or ""), *words_of(content)]


@given(text=SCRIPTS)
def test_the_index_lacks_no_word_of_a_text(text: str) -> None:
    indexed = indexed_words(None, text)
    assert set(words_of(text)) <= set(indexed.split())
    assert re.fullmatch("([a-z0-9_]+( [a-z0-9_]+)*)?", indexed)


@pytest.mark.parametrize("character", "東京都")
def test_a_single_character_of_a_script_without_spaces_is_found(character: str) -> None:
    assert set(query_words_of(character)) <= set(indexed_words(None, "東京都").split())


@pytest.mark.parametrize(
    ("one", "other"), [("Øresund", "oresund"), ("Łódź", "lodz"), ("æon", "aeon"), ("™", "TM")]
)
def test_letters_are_found_however_they_are_typed(one: str, other: str) -> None:
    assert words_of(one) == words_of(other)


def test_vowel_signs_do_not_divide_a_word() -> None:
    assert len(words_of("हिन्दी में")) == 2


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("cats", "The cat sat."),
        ("drinking", "She DRINKS tea"),
        ("cafe", "Émile's CAFÉ"),
        ("emile", "Émile's CAFÉ"),
        ("café", "cafe\u0301"),
        ("strasse", "Straße"),
        ("STRASSE", "straße"),
        ("office", "the o\ufb03ce"),
        ("istanbul", "İSTANBUL"),
        ("fullwidth", "\uff26\uff35\uff2c\uff2c\uff37\uff29\uff24\uff34\uff28"),
        ("tm", "™"),
        ("100 mb", "100 ㎆"),
        ("E1042", "error e1042: no route"),
        ("ЩИ", "щи"),
        ("Ωmega", "ωmega"),
        ("東京", "私は東京に住んでいます"),
        ("京都", "東京と京都"),
        ("テスト", "ﾃｽﾄ"),
        ("がくせい", "学生(がくせい)"),
        ("โลก", "สวัสดีชาวโลก"),
        ("Python3", "東京Python3会"),
        ("東京", "the東京office"),
        ("snake_case", "a snake_case name"),
        ("\U0001d41b\U0001d428\U0001d425\U0001d41d", "bold"),
    ],
)
def test_a_word_finds_the_text_that_has_it(query: str, text: str) -> None:
    assert finds(query, text)


@pytest.mark.parametrize(
    ("query", "text"),
    [("car", "cart"), ("京東", "東京"), ("1", "10"), ("ada", "bob"), ("щи", "shchi")],
)
def test_another_word_does_not_find_it(query: str, text: str) -> None:
    assert not finds(query, text)


def test_forms_of_an_english_word_are_one_word() -> None:
    forms = ["connect", "connects", "connected", "connecting", "connection", "Connections"]
    assert len({token for form in forms for token in words_of(form)}) == 1


def test_pairs_of_characters_are_the_words_of_a_script_without_spaces() -> None:
    assert len(words_of("東京都民")) == 3
    assert words_of("東京都民")[:2] == words_of("東京都")
    assert words_of("東京") == words_of("東京")[:1]


@pytest.mark.parametrize("text", ["", " \n", "…", "🎉 👩‍💻 ❤️", "!?()*\"'", "\x00", "_", "\u0301"])
def test_a_text_without_words_has_none(text: str) -> None:
    assert words_of(text) == []
    assert query_words_of(text) == []
    assert indexed_words(None, text) == ""


def test_a_query_leaves_out_words_that_say_nothing() -> None:
    assert query_words_of("What is the colour of my Cat?") == words_of("colour cat")


def test_a_query_of_such_words_alone_keeps_them() -> None:
    assert query_words_of("To be or not to be") == words_of("to be or not")
    assert finds("who are you", "You are who you are")


def test_stop_words_are_written_as_texts_are_read() -> None:
    assert all(word == word.casefold() and word.isascii() for word in STOP_WORDS)


def test_a_query_has_each_word_once() -> None:
    assert query_words_of("tea Tea teas TEA milk") == words_of("tea milk")


def test_a_query_has_a_limit_of_words() -> None:
    assert len(query_words_of(" ".join(f"word{number}" for number in range(500)))) == (
        MAX_QUERY_WORDS
    )


def ids(ranked: list[WordMatch]) -> list[str]:
    return [match.id for match in ranked]


def test_a_match_says_which_words_of_the_query_it_has() -> None:
    (match,) = rank_by_words(["milk", "tea", "zebra"], [candidate("a", "tea with tea and milk")])
    assert match.words == ("milk", "tea")


def test_a_rare_word_outweighs_a_common_one() -> None:
    candidates = [candidate(f"milk-{number}", "milk and honey") for number in range(5)]
    ranked = rank_by_words(
        query_words_of("milk zebra"), [*candidates, candidate("z", "zebra and honey")]
    )
    assert ranked[0] == ("z", ("zebra",))


def test_more_of_the_words_rank_higher() -> None:
    candidates = [candidate("one", "tea for two"), candidate("both", "tea with milk")]
    assert ids(rank_by_words(query_words_of("tea milk"), candidates)) == ["both", "one"]


def test_a_word_said_more_often_ranks_higher() -> None:
    candidates = [
        candidate("once", "tea or milk or water"),
        candidate("twice", "tea or tea or tea"),
    ]
    assert ids(rank_by_words(query_words_of("tea"), candidates)) == ["twice", "once"]


def test_a_shorter_text_ranks_higher() -> None:
    candidates = [candidate("long", "tea " + "water " * 20), candidate("short", "tea water")]
    assert ids(rank_by_words(query_words_of("tea"), candidates)) == ["short", "long"]


def test_of_equals_the_newer_is_first_and_then_the_smaller_id() -> None:
    candidates = [
        candidate("b", "tea", at(0)),
        candidate("c", "tea", at(1)),
        candidate("a", "tea", at(0)),
    ]
    assert ids(rank_by_words(["tea"], candidates)) == ["c", "a", "b"]


@given(
    texts=st.lists(st.sampled_from(["tea", "tea milk", "milk milk", "tea tea honey"]), min_size=1),
    chance=st.randoms(use_true_random=False),
)
def test_the_order_does_not_depend_on_the_order_of_candidates(
    texts: list[str], chance: Random
) -> None:
    candidates = [candidate(str(number), text) for number, text in enumerate(texts)]
    shuffled = list(candidates)
    chance.shuffle(shuffled)
    query = query_words_of("tea milk")
    assert rank_by_words(query, shuffled) == rank_by_words(query, candidates)


def test_ranking_nothing_gives_nothing() -> None:
    assert rank_by_words(["tea"], []) == []
