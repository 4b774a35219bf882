"""Imports BentoML with warnings let through: libraries under it warn at import."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import bentoml._internal.server.http_app  # noqa: F401
