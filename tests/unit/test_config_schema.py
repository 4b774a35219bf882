"""Fields, bounds, and what must fit together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from open_llm_server import core
from open_llm_server.config.fields import decode, facts_of
from open_llm_server.config.schema import Generation, ModelConfig, ServerConfig, is_loopback
from open_llm_server.config.vocabulary import RESERVED_VARIABLES
from open_llm_server.generation import Settings


def test_every_request_field_has_a_configured_default() -> None:
    assert set(core.SAMPLING_FIELDS) | {"prompt"} == set(Generation.model_fields)
    values = Generation().model_dump()
    core.Sampling(**{name: values[name] for name in core.SAMPLING_FIELDS})
    assert Settings.of(ModelConfig()).temperature == 0.8


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_k", True),
        ("top_k", 1.5),
        ("top_p", 1.01),
        ("min_p", -1),
        ("max_tokens", -1),
        ("frequency_penalty", 2.5),
        ("presence_penalty", -2.5),
        ("repetition_penalty", 0),
        ("seed", 2**63),
        ("num_beams", 0),
        ("num_beams", 17),
        ("stop_sequence", [""]),
        ("stop_sequence", ["x"] * 17),
        ("slots", 0),
        ("context_length", 1),
        ("queue_size", -1),
        ("device", "tpu"),
        ("threads", 0),
    ],
)
def test_what_a_request_may_not_say_a_configuration_may_not(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        ModelConfig.model_validate({field: value})
    if field in core.SAMPLING_FIELDS:
        with pytest.raises(ValidationError):
            core.Sampling.model_validate(
                {field: tuple(value) if isinstance(value, list) else value}
            )


def test_one_text_is_a_list_of_one() -> None:
    assert ModelConfig.model_validate({"stop_sequence": "--"}).stop_sequence == ("--",)
    assert ServerConfig.model_validate({"api_key": "k"}).api_key == ("k",)


def test_values_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError):
        setattr(ModelConfig(), "top_k", 3)  # noqa: B010 - mypy refuses to set it
    with pytest.raises(ValidationError):
        ModelConfig.model_validate({"topk": 3})


def test_secrets_are_not_in_texts() -> None:
    config = ServerConfig(api_key=("s3cret",), tls_key_password=None)
    assert "s3cret" not in f"{config!r} {config}"
    with pytest.raises(ValidationError):
        ServerConfig(api_key=("with blank",))


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("example.org", False),
    ],
)
def test_a_server_for_others_needs_keys(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    if loopback:
        assert ServerConfig(host=host).host == host
        return
    with pytest.raises(ValidationError, match=r"--api-key.*--insecure"):
        ServerConfig(host=host)
    assert ServerConfig(host=host, api_key=("k",)).api_key
    assert ServerConfig(host=host, insecure=True).insecure


@pytest.mark.parametrize(
    "values",
    [{"tls_cert": "c"}, {"tls_key": "k"}, {"tls_ca": "a"}, {"tls_key_password": "p"}],
)
def test_half_of_tls(values: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="tls"):
        ServerConfig.model_validate(values)


def test_names_mean_one_thing() -> None:
    """Model and server fields share flags and variables; reserved variables are neither."""
    model, server = facts_of(ModelConfig), facts_of(ServerConfig)
    assert not set(model) & set(server)
    variables = {facts.variable for facts in (*model.values(), *server.values())}
    assert variables & set(RESERVED_VARIABLES) == {"OPEN_LLM_DEVICE"}
    for facts in (*model.values(), *server.values()):
        assert facts.description, f"{facts.name} has no help text"


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("top_k", "3", "3"),
        ("max_tokens", "none", None),
        ("max_tokens", " None ", None),
        ("prompt", "none", "none"),
        ("top_k", "none", "none"),
        ("stop_sequence", "--", ("--",)),
        ("stop_sequence", "a,b", ("a", "b")),
        ("stop_sequence", "a, b", ("a", "b")),
        ("stop_sequence", "\n,END", ("\n", "END")),
        ("stop_sequence", "\n", ("\n",)),
        ("stop_sequence", '["a,b", " c"]', ["a,b", " c"]),
        ("stop_sequence", "[END", ("[END",)),
        ("stop_sequence", ",", (",",)),
    ],
)
def test_texts_become_values(field: str, text: str, value: Any) -> None:
    assert decode(facts_of(ModelConfig)[field], text) == value
