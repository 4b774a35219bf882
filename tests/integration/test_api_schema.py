"""The API judged by its own OpenAPI document: schemathesis sends what the document allows and
what it forbids, and checks statuses, bodies and headers of the answers.
"""

from __future__ import annotations

import schemathesis
from asgi import app_of
from hypothesis import HealthCheck, settings

APP = app_of(allowed_hosts=("*",))
schema = schemathesis.openapi.from_asgi("/openapi.json", APP)


@schema.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case) -> bool:
    # It takes a header that no document mentions for a violation; in HTTP anyone may add one.
    return "x-schemathesis-unknown-property" not in (case.headers or {})


@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_document_is_kept(case: schemathesis.Case) -> None:
    case.call_and_validate()
