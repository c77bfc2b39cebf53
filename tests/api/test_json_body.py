import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.json_body import MAX_DEPTH, _depth, decode
from service.errors import InvalidInput

TEXTS = st.text(st.sampled_from('[]{}"\\,:a\n☕')) | st.text()
DOCUMENTS = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=30,
)


def depth(document: Any) -> int:
    match document:
        case list():
            return 1 + max(map(depth, document), default=0)
        case dict():
            return 1 + max(map(depth, document.values()), default=0)
        case _:
            return 0


@given(DOCUMENTS, st.booleans())
def test_the_depth_of_a_document_is_found(document: Any, ascii_only: bool) -> None:
    assert _depth(json.dumps(document, ensure_ascii=ascii_only).encode()) == depth(document)


@given(st.binary())
def test_what_is_not_json_has_some_depth(body: bytes) -> None:
    assert _depth(body) >= 0


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_a_document_may_be_so_deep_and_no_deeper(opening: str, closing: str) -> None:
    levels = MAX_DEPTH // (opening.count("[") + opening.count("{"))
    document = opening * levels + "1" + closing * levels
    assert decode(document.encode(), Any)
    with pytest.raises(InvalidInput, match=f"at most {MAX_DEPTH} levels"):
        decode(f"[{document}]".encode(), Any)


def test_many_brackets_are_not_deep() -> None:
    document: Any = [[], "[" * 1_000, {"{": "\\"}] * 1_000
    assert decode(json.dumps(document).encode(), Any) == document
