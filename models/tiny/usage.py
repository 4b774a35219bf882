"""Generated questions about flags, variables and commands, one for each family and setting."""

from __future__ import annotations

import random

from grammar import expand, noisy
from tables import Thread, Turn

FAMILIES = ("llama", "flan-t5", "bloom", "dolly", "stablelm", "gpt-neox", "tiny")
SETTINGS = {
    "temperature": ("0", "0.2", "0.5", "0.7", "1"),
    "top_k": ("3", "10", "40"),
    "top_p": ("0.15", "0.5", "0.9"),
    "min_p": ("0.05", "0.1"),
    "max_tokens": ("50", "100", "200"),
    "frequency_penalty": ("0.1", "0.123", "0.5"),
    "presence_penalty": ("0.1", "0.5"),
    "repetition_penalty": ("1.1", "1.2"),
    "seed": ("1", "7", "42"),
}
DEVICES = {
    "CPU": "cpu",
    "processor": "cpu",
    "GPU": "gpu:0",
    "first GPU": "gpu:0",
    "graphics card": "gpu:0",
    "second GPU": "gpu:1",
}
START = (
    "How (do|can|would|should) I (start|run|launch|serve|use|try) ({}|the {} model)?",
    "How (do|can|would|should) I (start|run) the server with ({}|the {} model|the model {})?",
    "(Which|What) command (starts|runs|launches|serves) {}?",
    "(start|run|launch|serve) {}",
    "I (want|would like|need) to (run|use|start|serve|try) {}",
    "how to (start|run|use) {}",
    "(What do I type|What is the command) to (start|run|use) {}?",
    "(Can I|Can you) (run|start) {}?",
)
START_TWO = (
    "How (do|can|would|should) I (start|run|serve) {} and {}( together| at once|)?",
    "(Start|Run|Serve) both {} and {}",
    "I (want|need) (to run |)both {} and {}",
    "(Can I|How to) (run|start) {} (together with|and) {}( on one server|)?",
)
START_GRPC = (
    "How (do|can|should) I (start|run|serve) {} (with|over|through) (gRPC|grpc)?",
    "(start|serve) {} (with|over) gRPC",
    "I (want|need) gRPC for {}",
)
START_DEVICE = (
    "How (do|can|should|would) I (start|run|put|place|use) {} on (the|my|a) {}?",
    "(Put|Run|Start) {} on the {}",
    "(Can|Does) {} run on (the|a|my) {}?",
    "I (want|would like) {} (to run |)on (the|my) {}",
)
START_CONTAINER = (
    "How (do|can|should) I (run|start) {} in (a container|Docker|docker|podman)?",
    "(run|start) {} in a container",
    "(Can|Does) {} run in (a container|Docker)?",
)
SET = (
    "How (do|can|would|should) I (set|change|use|choose|control|adjust) (the |){}?",
    "(Which|What) (flag|option|field) (sets|is for|changes) (the |){}?",
    "(set|change) (the |){}",
    "(Where|How) (is|to set|to change) (the |){}( set|)?",
)
SET_TO = (
    "How (do|can|would|should) I (set|change) (the |){} to {}?",
    "(Set|Change|Put) (the |){} to {}",
    "I want (the |a |){} of {}",
    "(Start|Run) the server with (a |){} (of |){}",
)
SET_FAMILY = (
    "How (do|can) I set (the |){} (for|of) {}( only|)?",
    "(set|change) (the |){} (for|of) {}",
    "(a different|another) {} for {}",
)
VARIABLE = (
    "(What|Which) (environment variable|variable|env variable|env var) (sets|is for) (the |){}?",
    "How (do|can) I set (the |){} (with|by) (an environment variable|an env var)?",
    "(environment variable|env var|OPEN_LLM variable) for (the |){}",
)
# What is asked about a family and about a setting, and how often.
STARTS = ("alone", "alone", "alone", "two", "grpc", "device", "device", "container")
WAYS = ("plain", "plain", "value", "value", "family", "variable")


def starting(rng: random.Random) -> Thread:
    """How to start one family: alone, in pairs, with gRPC, on a device, in a container."""
    family, other = rng.sample(FAMILIES, 2)
    kind = rng.choice(STARTS)
    command = f"open-llm-server start {family}"
    if kind == "alone":
        note = " It is built in and needs no download." if family == "tiny" else ""
        after = f"Type: {command}. The server listens on port 5000.{note}"
        return [_turn(START, (family,), after, rng)]
    if kind == "two":
        return [_turn(START_TWO, (family, other), f"Type: {command},{other}", rng)]
    if kind == "grpc":
        return [_turn(START_GRPC, (family,), f"Type: {command} --grpc", rng)]
    if kind == "container":
        answer = f"Type: open-llm-server run-container {family} --target-device=cpu"
        return [_turn(START_CONTAINER, (family,), answer, rng)]
    device = rng.choice(list(DEVICES))
    answer = f"Type: {command} --device '{family}:{DEVICES[device]}'"
    return [_turn(START_DEVICE, (family, device), answer, rng)]


def settings(rng: random.Random) -> Thread:
    """How to set one value: by flag, in a request, for one family, by variable."""
    name = rng.choice(["temperature", *SETTINGS])
    value, family = rng.choice(SETTINGS[name]), rng.choice(FAMILIES)
    spoken = name if rng.random() < 0.7 else name.replace("_", rng.choice(" -"))
    kind = rng.choice(WAYS)
    if kind == "family":
        return [_turn(SET_FAMILY, (spoken, family), f"Use --set {family}.{name}={value}", rng)]
    if kind == "variable":
        variable = f"OPEN_LLM_{name.upper()}"
        plain = f"Set {variable}={value}. For one family put its name in: "
        return [_turn(VARIABLE, (spoken,), f"{plain}OPEN_LLM_BLOOM_{name.upper()}={value}", rng)]
    if kind == "plain":
        value = SETTINGS[name][-1]
        asked, fields = SET, (spoken,)
        return [_turn(asked, fields, _flag_and_field(name, value), rng)]
    return [_turn(SET_TO, (spoken, value), _flag_and_field(name, value), rng)]


def usage(rng: random.Random) -> Thread:
    """One generated question about using the server."""
    return starting(rng) if rng.random() < 0.55 else settings(rng)


def _flag_and_field(name: str, value: str) -> str:
    return f'Start the server with --{name} {value}, or put "{name}": {value} into a request.'


def _turn(
    patterns: tuple[str, ...], values: tuple[str, ...], answer: str, rng: random.Random
) -> Turn:
    pattern = rng.choice(patterns)
    if len(values) == 1:
        marks = pattern.replace("{}", "\1")
    else:
        marks = pattern.replace("{}", "\1", 1).replace("{}", "\2")
    text = noisy(expand(marks, rng), rng)
    return Turn(text.replace("\1", values[0]).replace("\2", values[-1]), answer)
