"""The grammar NAME, FAMILY@SOURCE, ALIAS=FAMILY@SOURCE."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open_llm_server.config.models import (
    RESERVED_NAMES,
    ModelSpec,
    Source,
    local_path,
    parse_models,
)
from open_llm_server.config.resolved import ModelPlan
from open_llm_server.errors import ConfigurationError, WeightsError


def hub(location: str, file: str | None = None, revision: str | None = None) -> Source:
    return Source(kind="hub", location=location, file=file, revision=revision)


def path(location: str, file: str | None = None) -> Source:
    return Source(kind="path", location=location, file=file)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("./q4.gguf", path("./q4.gguf")),
        ("q4.gguf", path("q4.gguf")),
        ("models/q4.gguf", path("models/q4.gguf")),
        ("/a/b c/q4.gguf", path("/a/b c/q4.gguf")),
        ("~/x", path("~/x")),
        ("../x", path("../x")),
        (".", path(".")),
        ("/a:b/c.gguf", path("/a:b/c.gguf")),
        ("./folder#q4.gguf", path("./folder", "q4.gguf")),
        ("./a#b#c.gguf", path("./a#b", "c.gguf")),
        ("path:folder", path("folder")),
        ("google/flan-t5-base", hub("google/flan-t5-base")),
        ("gpt2", hub("gpt2")),
        ("hub:gpt2", hub("gpt2")),
        ("org/name:main", hub("org/name", revision="main")),
        ("org/name:refs/pr/3", hub("org/name", revision="refs/pr/3")),
        ("org/name#q4.gguf", hub("org/name", "q4.gguf")),
        ("org/name:v1#q4.gguf", hub("org/name", "q4.gguf", "v1")),
        ("org/name#q4.gguf:v1", hub("org/name", "q4.gguf", "v1")),
        ("org/name#sub/q4.gguf", hub("org/name", "sub/q4.gguf")),
        ("builtin:tiny/a.gguf", Source(kind="builtin", location="tiny/a.gguf")),
    ],
)
def test_sources(text: str, source: Source) -> None:
    assert Source.parse(text) == source
    assert Source.parse(str(source)) == source


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a/b/c",
        "/a\0b",
        "org/name:",
        "org/name:a b",
        "org/name#",
        "org/name#../x.gguf",
        "org/name#/etc/passwd",
        "./folder#",
        "builtin:",
        "builtin:/etc/passwd",
        "builtin:../x",
        "path:",
        "näme",
        " ./x.gguf",
    ],
)
def test_bad_sources(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Source.parse(text)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("tiny", ModelSpec(name="tiny", family="tiny")),
        ("a=tiny", ModelSpec(name="a", family="tiny")),
        ("llama@./q4.gguf", ModelSpec(name="llama", family="llama", source=path("./q4.gguf"))),
        (
            "fast=llama@./q=4@x.gguf",
            ModelSpec(name="fast", family="llama", source=path("./q=4@x.gguf")),
        ),
        (
            "gpt-3.5-turbo=flan-t5@google/flan-t5-base:main",
            ModelSpec(
                name="gpt-3.5-turbo",
                family="flan-t5",
                source=hub("google/flan-t5-base", revision="main"),
            ),
        ),
    ],
)
def test_specs(text: str, spec: ModelSpec) -> None:
    assert ModelSpec.parse(text) == spec
    assert ModelSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@./x.gguf",
        "=tiny",
        "a=",
        "a=b=c",
        "tiny@",
        "tin y",
        "tiny:1",
        "-tiny",
        "tiny-",
        "x" * 53,
        "cpu",
        "server",
        "Defaults=tiny",
        "../tiny",
        "ti/ny",
    ],
)
def test_bad_specs(text: str) -> None:
    with pytest.raises(ConfigurationError):
        ModelSpec.parse(text)


def test_lists_are_joined_by_commas_or_not() -> None:
    together = parse_models(["tiny, fast=llama@./a.gguf", "b=tiny"])
    assert together == parse_models(["tiny", "fast=llama@./a.gguf", "b=tiny"])
    assert [spec.name for spec in together] == ["tiny", "fast", "b"]
    assert parse_models(["", " "]) == ()


@pytest.mark.parametrize("text", ["tiny,,fake", "tiny,", ",tiny", " , "])
def test_a_comma_stands_between_two_models(text: str) -> None:
    with pytest.raises(ConfigurationError, match="a comma with no model beside it"):
        parse_models([text])


def test_a_comma_in_a_path_is_escaped() -> None:
    (spec,) = parse_models([r"llama@./a\,b.gguf"])
    assert spec.source == path("./a,b.gguf")


@pytest.mark.parametrize("words", ["a=tiny,a=llama@./x.gguf", "tiny,tiny", "A-b=tiny,a.B=tiny"])
def test_names_differ(words: str) -> None:
    with pytest.raises(ConfigurationError, match="other="):
        parse_models([words])


names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True).filter(
    lambda name: name.lower() not in RESERVED_NAMES
)
path_words = st.text(
    st.characters(codec="utf-8", exclude_characters="\0#", exclude_categories=["Cs"]), min_size=1
).map(str.strip)
files = st.from_regex(r"[A-Za-z0-9]{1,8}\.gguf", fullmatch=True)
paths = st.builds(
    path,
    path_words.filter(bool).map("./{}".format),
    st.none() | files,
)
hubs = st.builds(
    hub,
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}/[A-Za-z0-9._-]{1,10}", fullmatch=True),
    st.none() | files,
    st.none() | st.from_regex(r"[a-z0-9][a-z0-9./-]{0,10}", fullmatch=True),
)
specs = st.builds(ModelSpec, name=names, family=names, source=st.none() | paths | hubs)


@settings(deadline=None)
@given(specs)
def test_what_is_written_reads_back(spec: ModelSpec) -> None:
    assert ModelSpec.parse(str(spec)) == spec
    assert parse_models([str(spec).replace(",", r"\,")]) == (spec,)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_parses_or_is_refused(text: str) -> None:
    try:
        specs = parse_models([text])
    except ConfigurationError:
        return
    for spec in specs:
        assert ModelSpec.parse(str(spec)) == spec


@settings(deadline=None)
@given(names)
def test_every_name_makes_a_runner_name_that_bentoml_takes(name: str) -> None:
    plan = ModelPlan(name=name, family="x", implementation="x:X", config={})
    # The pattern and length of a name in bentoml's tags.
    assert re.fullmatch(r"[a-z0-9]([-._a-z0-9]*[a-z0-9])?", plan.runner_name)
    assert len(plan.runner_name) <= 63


def test_labels_show_no_folders() -> None:
    assert path("/secret/place/q4.gguf").label == "q4.gguf"
    assert path("/secret/place", "q4.gguf").label == "q4.gguf"
    assert hub("org/name", "q4.gguf", "v1").label == "org/name:v1#q4.gguf"
    assert Source(kind="builtin", location="tiny/x.gguf").label == "built in"


def test_local_paths() -> None:
    assert str(local_path(path("/m", "q4.gguf"))) == "/m/q4.gguf"
    assert local_path(Source(kind="builtin", location="tiny")).name == "tiny"
    with pytest.raises(WeightsError, match="org/name"):
        local_path(hub("org/name"))
