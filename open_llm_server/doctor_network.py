"""The hub: whether it answers, has what is to be imported, and whether the disk has room for that.

Nothing here is asked unless the person allows the network; each answer is waited for a few seconds.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from .cli_figures import size
from .config.folder import bentoml_home
from .doctor_finding import Case, Finding, Level, joined
from .errors import HubUnavailable, OpenLLMError
from .registry import load_family
from .store import choose, hub, hub_http, present, space
from .store.hub_http import Patience

if TYPE_CHECKING:
    from .config.resolved import ModelPlan

ANSWER_WITHIN_S = 5.0


def check(case: Case) -> list[Finding]:
    if not case.network:
        return []
    if present.is_offline():
        return [Finding("note", "hub", "is not asked, for HF_HUB_OFFLINE is set")]
    try:
        url = hub_http.endpoint()
    except OpenLLMError:
        return []  # `doctor_environment` has said so
    missing = [plan for plan in case.plans if plan.missing]
    shown, why = hub_http.shown(url), silence(url)
    if why is not None:
        return [judge_silence(shown, why, [plan.name for plan in missing], len(case.plans))]
    found = [Finding("ok", "hub", f"{shown} answers")]
    return [*found, *(_judge_import(plan, alone=len(case.plans) == 1) for plan in missing)]


def silence(url: str, *, within_s: float = ANSWER_WITHIN_S) -> str | None:
    """Why nobody answers at `url`; `None`: somebody does, with whatever status."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=within_s):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except urllib.error.URLError as error:
        return str(getattr(error.reason, "strerror", None) or error.reason)
    except (OSError, ValueError) as error:
        return str(error) or type(error).__name__


def judge_silence(shown: str, why: str, missing: list[str], models: int) -> Finding:
    """`missing`: those of the `models` that would be fetched. A server of several models comes up
    without the one that its hub does not give; the only one ends it."""
    level: Level = "problem" if missing and models == 1 else "warning"
    fetched = f", and {joined(missing)} would be fetched from it" if missing else ""
    do = "look at HF_ENDPOINT and at HTTPS_PROXY, or bring the weights from another machine"
    return Finding(level, "hub", f"{shown} does not answer: {why}{fetched}", do)


def _judge_import(plan: ModelPlan, *, alone: bool) -> Finding:
    assert plan.source
    patience = Patience(
        stall_s=ANSWER_WITHIN_S, slow_s=ANSWER_WITHIN_S, connect_s=ANSWER_WITHIN_S, tries=1
    )
    try:
        remote = hub.describe(plan.source.location, plan.source.revision, patience=patience)
        known = {file.path: file for file in remote.files}
        weights = load_family(plan).weights_of(plan.config)
        assert weights != "none"
        chosen = choose.choose(
            [*known], weights, file=plan.source.file, where=remote.id, convert=False
        )
        files = [known[path] for path in chosen.files]
        total = sum(file.bytes for file in files)
        if not present.holder(remote, files):
            space.require(bentoml_home(), total)
    except HubUnavailable as error:
        return Finding.of(plan.name, error, "problem" if alone else "warning")
    except OpenLLMError as error:
        return Finding.of(plan.name, error)
    return Finding("ok", plan.name, f"{size(total)} to fetch of {remote.id}, and room for them")
