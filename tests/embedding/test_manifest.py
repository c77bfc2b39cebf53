import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.embedding.manifest import (
    MANIFEST_NAME,
    Manifest,
    read_manifest,
    sha256_of,
    verify_file,
)
from service.errors import ModelLoadError


def change(bundle: Path, **fields: Any) -> None:
    path = bundle / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def bundle(prompted_bundle: Path, tmp_path: Path) -> Path:
    """A folder with a manifest and a tokenizer that may be damaged."""
    for name in (MANIFEST_NAME, "tokenizer.json"):
        shutil.copy(prompted_bundle / name, tmp_path / name)
    return tmp_path


def test_a_manifest_reads_back_as_it_was_written(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    (bundle / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    assert read_manifest(bundle) == manifest


def test_a_manifest_from_before_relevance_was_measured_is_read(bundle: Path) -> None:
    path = bundle / MANIFEST_NAME
    fields = json.loads(path.read_text())
    del fields["relevance"]
    path.write_text(json.dumps(fields))
    assert read_manifest(bundle).relevance is None


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"expected a bundle in .*python -m export"):
        read_manifest(tmp_path)


def test_another_format_is_refused_before_its_fields_are_looked_at(bundle: Path) -> None:
    change(bundle, format=2, name=["of", "another", "type"])
    with pytest.raises(ModelLoadError, match="has format 2 and this version reads format 1"):
        read_manifest(bundle)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_token": 1}, "max_token"),
        ({"query_prompt": "question"}, "'question' is not one of the prompts"),
        ({"default_prompt": "question"}, "'question' is not one of the prompts"),
        ({"relevance": {"cutoff": 1.5, "pairs": 1}}, r"<= 1.0 - at `\$\.relevance\.cutoff`"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    bundle: Path, damage: dict[str, Any], complaint: str
) -> None:
    change(bundle, **damage)
    with pytest.raises(ModelLoadError, match=complaint):
        read_manifest(bundle)


def test_half_a_manifest_is_refused(bundle: Path) -> None:
    path = bundle / MANIFEST_NAME
    path.write_text(path.read_text()[:100])
    with pytest.raises(ModelLoadError, match=r"is not a bundle's manifest: .*; write the bundle"):
        read_manifest(bundle)


def test_a_file_as_recorded_is_verified(bundle: Path) -> None:
    tokenizer = read_manifest(bundle).tokenizer
    path = verify_file(bundle, tokenizer)
    assert path == bundle / tokenizer.name
    assert sha256_of(path) == tokenizer.sha256


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (lambda content: content[:-1], "bytes and its manifest says"),
        (lambda content: b"?" + content[1:], "has sha256 .* and its manifest says"),
    ],
)
def test_a_changed_file_is_refused(bundle: Path, content: Any, complaint: str) -> None:
    manifest: Manifest = read_manifest(bundle)
    path = bundle / manifest.tokenizer.name
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(ModelLoadError, match=complaint):
        verify_file(bundle, manifest.tokenizer)


def test_a_missing_file_is_refused(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    (bundle / manifest.tokenizer.name).unlink()
    with pytest.raises(ModelLoadError, match="cannot be read"):
        verify_file(bundle, manifest.tokenizer)
