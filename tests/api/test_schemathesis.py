"""The API against its own OpenAPI document: whatever Schemathesis makes up, the answers are as documented."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from support.api import running, settings_for

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
]


# What a JSON Schema cannot say: distinct results, settings of a method, cursors, NDJSON, metrics of a task, Parquet.
BEYOND = {
    ("/api/v1/clickstream/session", positive_data_acceptance),
    ("/api/v1/clickstream/internal/batch/sessions", positive_data_acceptance),
    ("/api/v1/fine-tuning/task", positive_data_acceptance),
    ("/api/v1/items", positive_data_acceptance),
    ("/api/v1/relational/validate", positive_data_acceptance),
    ("/api/v1/relational/task", positive_data_acceptance),
    ("/api/v1/relational/upload", positive_data_acceptance),
    ("/api/v1/clickstream/sessions/import", negative_data_rejection),
}
# These need MLflow, or say 503 without it.
ELSEWHERE = "^/(api/v1/models|v1/|healthz|api/v1/fine-tuning/task/{task_id}/model)"


@schemathesis.serializer("application/x-ndjson")
def ndjson(_context: schemathesis.SerializationContext, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="surrogatepass")


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    # Schemathesis likes texts longer than any allowed, and takes 413 for no refusal.
    with running(settings_for(tmp_path_factory.mktemp("schemathesis"), max_body_mb=1000)) as url:
        document = schemathesis.openapi.from_url(f"{url}/openapi.json").exclude(path_regex=ELSEWHERE)
        document.config.generation.allow_x00 = False  # no text may hold NUL, which JSON Schema hardly can say
        yield document


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_answers_are_as_documented(document: schemathesis.BaseSchema, mode: GenerationMode) -> None:
    operations = [found.ok() for found in document.get_all_operations()]
    assert len(operations) > 20
    for operation in operations:
        try:
            try_out(operation, mode)
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, "nothing can be wrong with a call without parameters"


def try_out(operation: schemathesis.APIOperation, mode: GenerationMode) -> None:
    checks = [check for check in CHECKS if (operation.path, check) not in BEYOND]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=checks)

    check()
