"""The API judged by its own OpenAPI document: schemathesis sends what the document allows and
what it forbids, and checks statuses, bodies and headers of the answers.
"""

from __future__ import annotations

from typing import Any

import schemathesis
from asgi import app_of
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode

APP = app_of(allowed_hosts=("*",), body_limit=2**26)
schema = schemathesis.openapi.from_asgi("/openapi.json", APP)
ACCEPTANCE: list[Any] = CHECKS.get_by_names(["positive_data_acceptance"])
BETWEEN_FIELDS = {
    "prompt",
    "messages",
    "stop",
    "n",
    "best_of",
    "max_tokens",
    "top_logprobs",
    "stream_options",
    "dimensions",
}
"""Fields with rules that JSON Schema cannot say: they depend on another field or on the model."""


@schema.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    # It takes a header that no document mentions for a violation; in HTTP anyone may add one.
    return "x-schemathesis-unknown-property" not in (case.headers or {})


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_document_is_kept(case: schemathesis.Case[Any]) -> None:
    response = case.call()
    case.validate_response(response, excluded_checks=ACCEPTANCE)
    if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
        assert response.status_code in (200, 404) or is_known(response.json()["error"]), (
            response.text
        )


def is_known(refusal: dict[str, Any]) -> bool:
    """Whether a document-conforming request may be refused in this way."""
    # JSON Schema takes 1.0 for an integer; the server does not.
    fraction = refusal["message"].endswith("Input should be a valid integer")
    if refusal["code"] == "not_supported":
        # OpenAI's fields that would change the meaning: tools, response_format and the like.
        return True
    return fraction or str(refusal["param"]).split(".")[0] in BETWEEN_FIELDS
