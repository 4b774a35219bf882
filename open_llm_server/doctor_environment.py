"""What the environment says to a start: its settings, and its variables.

The only one of the checks that reads variables. Values that may be secret are never told.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from .config.devices import thread_env
from .config.schema import is_loopback
from .config.vocabulary import PREFIX, WHERE_THEY_ARE
from .doctor_finding import Case, Finding, joined
from .errors import OpenLLMError
from .supervisor import check_tls

_HUB = "HF_"


def child_environment(*, threads: int, folder: str) -> dict[str, str]:
    """For a child that takes a look: this one, without our settings, and with a place in `folder`
    for what BentoML makes when it is imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    own = {"BENTOML_HOME": folder, "BENTOML_DO_NOT_TRACK": "True", "HF_HUB_OFFLINE": "1"}
    return {**kept, **thread_env(threads), **own}


def visible_gpus() -> str | None:
    """What hides GPUs from CUDA; `None`: nothing."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def check(case: Case) -> list[Finding]:
    found = [*_configuration(case), *variables(os.environ)]
    return [*found, *_hub(needed=any(plan.missing for plan in case.plans))]


def _configuration(case: Case) -> list[Finding]:
    if case.fault:
        return [Finding.of("configuration", case.fault, do=f"set it otherwise: {WHERE_THEY_ARE}")]
    assert case.resolved
    found = []
    if case.assumed:
        found.append(
            Finding(
                "note",
                "models",
                "none is named, so the built-in tiny is looked at",
                "open-llm-server doctor MODELS..., with the arguments that `start` would get",
            )
        )
    server = case.resolved.server
    try:
        check_tls(case.resolved)
    except OpenLLMError as error:
        found.append(Finding.of("TLS", error))
    if not (is_loopback(server.host) or server.api_key):
        found.append(
            Finding(
                "warning",
                "access",
                f"whoever reaches {server.host} may use this server: --insecure is set, no key is",
                "set a key in OPEN_LLM_API_KEY, and leave --insecure out",
            )
        )
    return found


def variables(environ: Mapping[str, str]) -> list[Finding]:
    """The names of what is set, and the values of what is no secret."""
    ours = sorted(name for name, text in environ.items() if name.startswith(PREFIX) and text)
    hub = sorted(name for name, text in environ.items() if name.startswith(_HUB) and text)
    found = []
    for names, subject in ((ours, "this server's"), (hub, "the hub's")):
        if names:
            are = "is" if len(names) == 1 else "are"
            found.append(Finding("ok", "environment", f"{subject}: {joined(names)} {are} set"))
    return found


def _hub(*, needed: bool) -> list[Finding]:
    """Whether what the hub's variables say can be used, where something is to be fetched."""
    from .store import hub_http, present

    try:
        url = hub_http.shown(hub_http.endpoint())
        hub_http.token()
    except OpenLLMError as error:
        return [Finding.of("hub", error, "problem" if needed else "warning")]
    if present.is_offline():
        says = "HF_HUB_OFFLINE is set: nothing is fetched from a hub"
        return [Finding("note", "hub", says, "unset it to import models" if needed else "")]
    return [Finding("ok", "hub", f"models are imported from {url}")]
