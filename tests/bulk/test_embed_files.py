import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pytest
from litestar import Litestar
from litestar.testing import TestClient
from pyarrow import parquet

from service.bulk.embed_files import Wanted, embed_files
from service.bulk.row_files import PART_ROWS
from service.embedding.onnx_model import Embeddings
from service.errors import InvalidSettings, StartupError
from service.settings import Settings
from tests.service_process import clean_environment

ROWS = 2 * PART_ROWS + 20
DEADLINE_SECONDS = 120


def texts(count: int = ROWS) -> list[str]:
    return [f"{number}" + " lake" * (number % 3) for number in range(count)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A file of rows, of the format of its name; Parquet in row groups that are no whole parts."""
    if path.suffix == ".parquet":
        parquet.write_table(arrow.Table.from_pylist(rows), path, row_group_size=1_500)
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return rows
    return [json.loads(line) for line in path.read_text().splitlines()]


def embeddings_of(rows: list[dict[str, Any]]) -> Embeddings:
    return np.array([row["embedding"] for row in rows], np.float32)


def served(client: TestClient[Litestar], texts: list[str], **fields: Any) -> Embeddings:
    """What the service answers for the same texts."""
    answer = client.post("/v1/embeddings", json={"input": texts, **fields})
    return embeddings_of(answer.json()["data"])


def agree(one: Embeddings, other: Embeddings) -> bool:
    return one.shape == other.shape and bool(((one * other).sum(axis=1) >= 0.9999).all())


def embed(bundle: Path, input: Path, output: Path, **wanted: Any) -> list[dict[str, Any]]:
    """The rows of the output."""
    embed_files(Settings(model=bundle), input, output, Wanted(**wanted))
    return read(output)


def refusal(bundle: Path, input: Path, output: Path, **wanted: Any) -> str:
    with pytest.raises(StartupError) as refused:
        embed_files(Settings(model=bundle), input, output, Wanted(**wanted))
    return str(refused.value)


def begin(bundle: Path, input: Path, output: Path, *flags: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "service", "embed-files", str(input), str(output), *flags]
    return subprocess.Popen([*command, "--model", str(bundle)], env=clean_environment())


@pytest.fixture(scope="module", params=["jsonl", "parquet"])
def format(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def large(format: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of several parts."""
    rows = [{"id": number, "text": text, "x": [1.5]} for number, text in enumerate(texts())]
    return write(tmp_path_factory.mktemp("large") / f"in.{format}", rows)


@pytest.fixture(scope="module")
def embedded(large: Path, prompted_bundle: Path) -> Path:
    """What it gives without interruption."""
    output = large.with_name(f"out{large.suffix}")
    embed(prompted_bundle, large, output)
    return output


def test_rows_are_carried_over_in_order_with_their_embeddings(
    large: Path, embedded: Path, client: TestClient[Litestar]
) -> None:
    rows = read(embedded)
    assert [{**row, "embedding": None} for row in rows] == [
        {**row, "embedding": None} for row in read(large)
    ]
    embeddings = embeddings_of(rows)
    assert embeddings.shape == (ROWS, 384)
    some = [0, 1, PART_ROWS - 1, PART_ROWS, 1_499, 1_500, 2 * PART_ROWS, ROWS - 1]
    assert agree(embeddings[some], served(client, [texts()[row] for row in some]))
    assert not embedded.with_name(f"{embedded.name}.parts").exists()


@pytest.mark.slow
def test_a_killed_command_that_is_given_again_gives_what_one_without_a_kill_does(
    large: Path, embedded: Path, prompted_bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / embedded.name
    parts = output.with_name(f"{output.name}.parts")
    for wanted in (1, 2):
        process = begin(prompted_bundle, large, output)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(list(parts.glob(f"0*{large.suffix}"))) < wanted:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not output.exists()
        (parts / f"00000002{large.suffix}.partial").write_bytes(b"half")
    first = parts / f"00000000{large.suffix}"
    written_at = first.stat().st_mtime_ns
    process = begin(prompted_bundle, large, output)
    while not output.exists() and first.exists():
        assert first.stat().st_mtime_ns == written_at
        time.sleep(0.01)
    assert process.wait(DEADLINE_SECONDS) == 0
    if large.suffix == ".parquet":
        assert parquet.read_table(output).equals(parquet.read_table(embedded))
    assert output.read_bytes() == embedded.read_bytes()
    assert not parts.exists()


@pytest.mark.slow
def test_threads_do_not_change_the_result(
    large: Path, embedded: Path, prompted_bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / embedded.name
    embed_files(Settings(model=prompted_bundle, threads=1), large, output, Wanted())
    assert output.read_bytes() == embedded.read_bytes()


def test_a_finished_job_whose_folder_is_left_is_done(
    large: Path, embedded: Path, prompted_bundle: Path, tmp_path: Path
) -> None:
    """As where it was killed between its last two steps."""
    output = tmp_path / embedded.name
    parts = output.with_name(f"{output.name}.parts")
    process = begin(prompted_bundle, large, output)
    while not (parts / "job.json").exists():
        time.sleep(0.001)
    process.kill()
    process.wait()
    shutil.copy(embedded, output)
    embed(prompted_bundle, large, output)
    assert output.read_bytes() == embedded.read_bytes()
    assert not parts.exists()


FEW = ["Mars is red.", "Venus is hot.", "The sea is deep."]


@pytest.fixture
def small(format: str, tmp_path: Path) -> Path:
    return write(tmp_path / f"small.{format}", [{"body": text} for text in FEW])


@pytest.mark.parametrize(
    "choice",
    [{"input_type": "query"}, {"prompt_name": "clustering"}, {"dimensions": 128}, {}],
    ids=str,
)
def test_prompt_and_size_are_chosen_as_over_http(
    small: Path,
    prompted_bundle: Path,
    client: TestClient[Litestar],
    tmp_path: Path,
    choice: dict[str, Any],
) -> None:
    output = tmp_path / f"out{small.suffix}"
    rows = embed(prompted_bundle, small, output, field="body", **choice)
    assert agree(embeddings_of(rows), served(client, FEW, **choice))


def test_a_text_that_is_cut_is_marked(
    format: str, prompted_bundle: Path, client: TestClient[Litestar], tmp_path: Path
) -> None:
    long = ["short", "word " * 1_000]
    input = write(tmp_path / f"in.{format}", [{"text": text} for text in long])
    rows = embed(prompted_bundle, input, tmp_path / f"out.{format}", truncate=True)
    assert [row["truncated"] for row in rows] == [False, True]
    assert agree(embeddings_of(rows), served(client, long, truncate=True))


def test_a_file_without_rows_gives_one(format: str, prompted_bundle: Path, tmp_path: Path) -> None:
    rows = [{"text": "a"}]
    input = write(tmp_path / f"in.{format}", rows)
    if format == "jsonl":
        input.write_bytes(b"")
    else:
        parquet.write_table(parquet.read_table(input).slice(0, 0), input)
    output = tmp_path / f"out.{format}"
    assert embed(prompted_bundle, input, output) == []
    if format == "parquet":
        embed(prompted_bundle, write(tmp_path / "one.parquet", rows), tmp_path / "two.parquet")
        assert parquet.read_schema(output) == parquet.read_schema(tmp_path / "two.parquet")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"other": "a"}, "expected"),
        ({"text": None}, "expected"),
        ({"text": ""}, "the text is empty"),
        ({"text": "word " * 1_000}, "the text has 1,004 tokens"),
    ],
)
def test_a_row_that_cannot_be_embedded_is_named(
    format: str, prompted_bundle: Path, tmp_path: Path, bad: dict[str, Any], why: str
) -> None:
    rows = [{"text": "a", "other": None}] * (PART_ROWS + 5) + [bad]
    input = write(tmp_path / f"in.{format}", rows)
    complaint = refusal(prompted_bundle, input, tmp_path / f"out.{format}")
    where = "line" if format == "jsonl" else "row"
    assert complaint.startswith(f"{input}, {where} {PART_ROWS + 6:,}: {why}")
    assert not (tmp_path / f"out.{format}").exists()


@pytest.mark.parametrize("line", ["", "[1]", '{"text": "a"', '{"text": "\\ud800"}'])
def test_a_line_that_is_no_object_is_named(
    prompted_bundle: Path, tmp_path: Path, line: str
) -> None:
    input = tmp_path / "in.jsonl"
    input.write_text(f'{{"text": "a"}}\n{line}\n{{"text": "b"}}\n')
    complaint = refusal(prompted_bundle, input, tmp_path / "out.jsonl")
    assert complaint.startswith(f"{input}, line 2: expected an object")


def test_what_is_carried_over_keeps_its_spelling(prompted_bundle: Path, tmp_path: Path) -> None:
    input = tmp_path / "in.jsonl"
    line = '{"big":123456789012345678901234567890,"text":"a\\u00e9","x":[1.50, 1e5]'
    input.write_text(f"{line}}}")
    embed(prompted_bundle, input, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text().startswith(f'{line},"embedding":[')


@pytest.mark.parametrize("name", ["embedding", "truncated"])
def test_a_field_is_not_replaced(
    format: str, prompted_bundle: Path, tmp_path: Path, name: str
) -> None:
    input = write(tmp_path / f"in.{format}", [{"text": "a", name: "mine"}])
    complaint = refusal(prompted_bundle, input, tmp_path / f"out.{format}")
    assert f"a field '{name}' already" in complaint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"field": "other"}, "field was 'text' and is 'other'"),
        ({"dimensions": 128}, "dimensions was 384 and is 128"),
        ({"input_type": "query"}, "prompt was 'text: ' and is 'find: '"),
        ({"truncate": True}, "truncate was False and is True"),
    ],
)
def test_another_job_does_not_go_on_with_the_parts(
    prompted_bundle: Path, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    input, output = begun_job(prompted_bundle, tmp_path)
    assert named in refusal(prompted_bundle, input, output, **change)


def test_another_input_or_model_does_not_go_on_with_the_parts(
    prompted_bundle: Path, starter_bundle: Path, tmp_path: Path
) -> None:
    input, output = begun_job(prompted_bundle, tmp_path)
    assert "model was 'prompted'" in refusal(starter_bundle, input, output)
    write(input, [{"text": "good"}])
    assert "input_bytes was" in refusal(prompted_bundle, input, output)


def begun_job(bundle: Path, folder: Path) -> tuple[Path, Path]:
    """A job that stopped at a bad row."""
    input, output = write(folder / "in.jsonl", [{"text": ""}]), folder / "out.jsonl"
    refusal(bundle, input, output)
    return input, output


def test_a_file_that_is_there_is_not_replaced(
    small: Path, prompted_bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / f"out{small.suffix}"
    output.write_text("mine")
    assert "is there already" in refusal(prompted_bundle, small, output, field="body")
    assert output.read_text() == "mine"


@pytest.mark.parametrize(
    ("input", "output", "wanted", "why"),
    [
        ("in.jsonl", "out.parquet", {}, "two files of one format"),
        ("in.txt", "out.txt", {}, "expected a file named *.jsonl, *.ndjson or *.parquet"),
        ("nowhere.jsonl", "out.jsonl", {}, "nowhere.jsonl: No such file"),
        ("in.jsonl", "nowhere/out.jsonl", {}, "No such file"),
        ("bad.parquet", "out.parquet", {}, "bad.parquet is not a Parquet file"),
        ("in.jsonl", "out.jsonl", {"prompt_name": "no"}, "prompt_name='no' is not one of"),
        ("in.jsonl", "out.jsonl", {"dimensions": 99}, "dimensions=99 is not one of"),
        ("in.jsonl", "out.jsonl", {"prompt_name": "search", "input_type": "query"}, "got both"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    prompted_bundle: Path,
    tmp_path: Path,
    input: str,
    output: str,
    wanted: dict[str, Any],
    why: str,
) -> None:
    for name in ("in.jsonl", "in.txt", "bad.parquet"):
        (tmp_path / name).write_text('{"text": "a"}\n')
    assert why in refusal(prompted_bundle, tmp_path / input, tmp_path / output, **wanted)
    assert len(list(tmp_path.iterdir())) == 3


def test_the_command_takes_what_is_wanted_as_flags(
    small: Path, prompted_bundle: Path, tmp_path: Path
) -> None:
    by_flags, by_call = tmp_path / f"flags{small.suffix}", tmp_path / f"call{small.suffix}"
    wanted = {"field": "body", "prompt_name": "search", "dimensions": 128, "truncate": True}
    flags = ("--field=body", "--prompt-name=search", "--dimensions=128", "--truncate")
    assert begin(prompted_bundle, small, by_flags, *flags).wait(DEADLINE_SECONDS) == 0
    embed(prompted_bundle, small, by_call, **wanted)
    assert by_flags.read_bytes() == by_call.read_bytes()


def test_a_library_that_is_missing_is_named(
    prompted_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("service.bulk.parquet", "service.bulk.on_ray"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("pyarrow", "ray"):
        monkeypatch.setitem(sys.modules, name, None)
    rows = [{"text": "a"}]
    input = tmp_path / "in.parquet"
    input.touch()
    complaint = refusal(prompted_bundle, input, tmp_path / "out.parquet")
    assert "uv sync --extra parquet" in complaint
    input = write(tmp_path / "in.jsonl", rows)
    with pytest.raises(InvalidSettings, match="uv sync --extra ray"):
        embed_files(
            Settings(model=prompted_bundle), input, tmp_path / "out.jsonl", Wanted(), ray="local"
        )


def test_a_column_that_is_not_there_is_named(prompted_bundle: Path, tmp_path: Path) -> None:
    input = write(tmp_path / "in.parquet", [{"body": "a"}])
    complaint = refusal(prompted_bundle, input, tmp_path / "out.parquet")
    assert "has no column 'text'; it has body" in complaint
