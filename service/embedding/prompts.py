"""The instruction that a model was trained to read before a text."""

from typing import Literal, NamedTuple

from service.embedding.manifest import Manifest
from service.errors import UnknownPrompt

InputType = Literal["query", "document"]
Task = Literal["classification", "clustering", "similarity"]

# What sentence-transformers' models call the prompts of the tasks, in their own capitals.
_PROMPT_NAMES: dict[Task, str] = {
    "classification": "classification",
    "clustering": "clustering",
    "similarity": "sts",
}

_NO_TITLE = "title: none |"


class Prompts(NamedTuple):
    """What the texts of a request are read behind."""

    prompt: str
    own: tuple[str, ...] = ()
    """A text that begins with one of these is read behind that instead."""


def prompt_for_input_type(manifest: Manifest, input_type: InputType) -> str:
    """The prompt of one side of retrieval; empty for a model that has none."""
    name = manifest.query_prompt if input_type == "query" else manifest.document_prompt
    return manifest.prompts[name] if name else ""


def prompt_for_name(manifest: Manifest, name: str) -> str:
    """The prompt that the model calls `name`.

    Raises:
        UnknownPrompt: the model has no prompt of this name.
    """
    try:
        return manifest.prompts[name]
    except KeyError:
        names = ", ".join(manifest.prompts) or "none: this model has no prompts"
        raise UnknownPrompt(
            f"prompt_name={name!r} is not one of this model's prompts ({names})",
            parameter="prompt_name",
        ) from None


def prompt_for_task(manifest: Manifest, task: Task) -> str:
    """The prompt that the model has for a task beside retrieval, or else its default."""
    wanted = _PROMPT_NAMES[task]
    named = (prompt for name, prompt in manifest.prompts.items() if name.casefold() == wanted)
    return next(named, default_prompt(manifest))


def default_prompt(manifest: Manifest) -> str:
    """The prompt that the model reads where nothing says which."""
    return manifest.prompts[manifest.default_prompt] if manifest.default_prompt else ""


def unasked_prompts(manifest: Manifest) -> Prompts:
    """What texts are read behind where nothing says which: the default, unless they bring one.

    Users of servers that know no prompts put the model's in front themselves, and an embedding
    behind two of them is silently worse.
    """
    return Prompts(default_prompt(manifest), tuple(filter(None, manifest.prompts.values())))


def document_text(manifest: Manifest, title: str | None, content: str) -> str:
    """What the model reads of a document: its prompt, with the title where it has a place for one.

    EmbeddingGemma was trained on `title: <the title, or none> | text: <the text>`. Other models
    read the title as the first line.
    """
    prompt = prompt_for_input_type(manifest, "document")
    if title is None:
        return prompt + content
    if _NO_TITLE in prompt:
        return prompt.replace(_NO_TITLE, f"title: {title} |", 1) + content
    return f"{prompt}{title}\n{content}"
