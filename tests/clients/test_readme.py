"""The examples of service/api/README.md, as they stand but for the port."""

import re
from typing import Any

import pytest

from tests.clients.reference import embeddings_of, same
from tests.service_process import REPOSITORY

README = (REPOSITORY / "service" / "api" / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8080"
HEAVY = ("llama_index", "neo4j_graphrag")
TEXTS = {"query": "Which planet is red?", "document": "Mars is red."}


def library(example: str) -> str:
    found = re.search(r"^(?:from|import) (?!asyncio)(\w+)", example, re.MULTILINE)
    assert found, example
    return found[1]


PARAMETERS = [
    pytest.param(
        example,
        id=f"{number}-{library(example)}",
        marks=[pytest.mark.clients] if library(example) in HEAVY else [],
    )
    for number, example in enumerate(EXAMPLES)
]


@pytest.mark.parametrize("example", PARAMETERS)
@pytest.mark.filterwarnings("ignore")  # of libraries about others, and of clients left open
def test_an_example_embeds_behind_the_prompt_that_it_says(example: str, url: str) -> None:
    names: dict[str, Any] = {}
    exec(example.replace(ADDRESS, url), names)
    ((side, text),) = [(side, text) for side, text in TEXTS.items() if side in names]
    found = [list(names[side])]
    expected = embeddings_of(url, [text], prompt_name=side, dimensions=len(found[0]))
    assert same(found, expected)


def test_there_is_an_example_of_each_client() -> None:
    assert {library(example) for example in EXAMPLES} == {
        "cohere",
        "graphiti_core",
        "huggingface_hub",
        "langchain_openai",
        "llama_index",
        "neo4j_graphrag",
        "openai",
    }
