from ipaddress import ip_network
from pathlib import Path

import pytest

from service.errors import InvalidSettings
from service.settings import SECRETS, Settings, describe, variable_of

OTHER_VALUES = {
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("9000", 9000),
    "root_path": ("/memory", "/memory"),
    "trusted_proxies": (
        "10.0.0.0/8, ::1",
        (ip_network("10.0.0.0/8"), ip_network("::1")),
    ),
    "model": ("models/other", Path("models/other")),
    "precision": ("int8-block", "int8-block"),
    "threads": ("3", 3),
    "workers": ("4", 4),
    "gpu_bytes": ("4000000000", 4_000_000_000),
    "warm_up": ("false", False),
    "cache_bytes": ("1000000", 1_000_000),
    "max_batch_tokens": ("4096", 4096),
    "max_queued_tokens": ("1000", 1000),
    "max_batch_texts": ("16", 16),
    "api_keys": ("keys.json", Path("keys.json")),
    "cors_origins": ("https://a.example", "https://a.example"),
    "receive_timeout_seconds": ("5", 5),
    "log_level": ("DEBUG", "debug"),
    "log_format": ("JSON", "json"),
    "shutdown_grace_seconds": ("5", 5),
    "store": ("sqlite:////var/memory.db", "sqlite:////var/memory.db"),
    "relevance_cutoff": ("0.25", 0.25),
    "neo4j_username": ("ada", "ada"),
    "neo4j_password": ("swordfish", "swordfish"),
    "neo4j_database": ("memories", "memories"),
    "otel_exporter_otlp_endpoint": ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
}


def test_every_setting_is_tried_here() -> None:
    assert set(OTHER_VALUES) == set(Settings.__struct_fields__)


@pytest.mark.parametrize(("name", "given", "expected"), [(k, *v) for k, v in OTHER_VALUES.items()])
def test_a_variable_sets_its_setting(name: str, given: str, expected: object) -> None:
    settings = Settings.from_environ({variable_of(name): given})
    assert getattr(settings, name) == expected != getattr(Settings(), name)


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_a_flag_wins_over_the_variable(name: str) -> None:
    given, expected = OTHER_VALUES[name]
    variable = {variable_of(name): str(getattr(Settings(), name) or "")}
    assert getattr(Settings.from_environ(variable, {name: given}), name) == expected


def test_the_login_of_neo4j_is_named_as_neo4j_does() -> None:
    assert variable_of("neo4j_password") == "NEO4J_PASSWORD"
    assert variable_of("store") == "MEMORY_STORE"


def test_the_collector_is_named_as_opentelemetry_does() -> None:
    assert variable_of("otel_exporter_otlp_endpoint") == "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_a_secret_is_never_shown() -> None:
    shown = repr(Settings(neo4j_username="ada", neo4j_password="swordfish"))
    assert "ada" in shown
    assert "neo4j_password=***" in shown
    assert "swordfish" not in shown
    assert set(SECRETS) <= set(Settings.__struct_fields__)


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_every_setting_says_when_to_change_it(name: str) -> None:
    assert describe(name).endswith(".")


def test_without_variables_and_flags_the_defaults_hold() -> None:
    assert Settings.from_environ({"PATH": "/bin", "MEMORY_HOST": ""}, {"port": None}) == Settings()


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("MEMORY_PROT", "MEMORY_PORT"),
        ("MEMORY_MAX_BATCH_TOKEN", "MEMORY_MAX_BATCH_TOKENS"),
        ("MEMORY_Port", "MEMORY_PORT"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_name(variable: str, meant: str) -> None:
    with pytest.raises(InvalidSettings, match=f"{variable} is not a setting; .* {meant}\\?"):
        Settings.from_environ({variable: "1"})


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("MEMORY_PORT", "http", "a whole number from 0 to 65535"),
        ("MEMORY_PORT", "65536", "a whole number from 0 to 65535"),
        ("MEMORY_PORT", "80.5", "a whole number from 0 to 65535"),
        ("MEMORY_THREADS", "-1", "a whole number of at least 0"),
        ("MEMORY_MAX_BATCH_TEXTS", "0", "a whole number of at least 1"),
        ("MEMORY_RELEVANCE_CUTOFF", "1.5", "a number from -1 to 1"),
        ("MEMORY_CACHE_BYTES", "1GB", "a whole number of at least 0"),
        ("MEMORY_WARM_UP", "maybe", "true or false"),
        ("MEMORY_ROOT_PATH", "memory/", "something such as /memory"),
        ("MEMORY_TRUSTED_PROXIES", "nginx", "something such as 10.0.0.0/8,127.0.0.1"),
        ("MEMORY_LOG_LEVEL", "loud", "one of debug, info, warning, error"),
        ("MEMORY_LOG_FORMAT", "xml", "one of text, json"),
        ("MEMORY_PRECISION", "fp8", "one of fp32, int8, int8-block, fp16, bf16"),
    ],
)
def test_a_malformed_value_is_refused_with_what_was_expected(
    variable: str, value: str, expected: str
) -> None:
    with pytest.raises(InvalidSettings, match=f"{variable}={value}: expected {expected}"):
        Settings.from_environ({variable: value})


@pytest.mark.parametrize(
    ("value", "expected"), [("true", True), ("1", True), ("False", False), ("0", False)]
)
def test_a_switch_is_true_or_false(value: str, expected: bool) -> None:
    assert Settings.from_environ({"MEMORY_WARM_UP": value}).warm_up is expected


def test_a_malformed_flag_is_called_by_its_name() -> None:
    with pytest.raises(InvalidSettings, match="--max-batch-texts=many: expected"):
        Settings.from_environ({}, {"max_batch_texts": "many"})
