"""Whatever the API's description allows, and much that it does not, is answered: never by 500."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import whyalike as wa
from galleries import HEADS, photographs, picture
from serving import Client, png, serving

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance,
          response_schema_conformance]  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Of a server of four photographs."""
    folder = tmp_path_factory.mktemp("api")
    photographs(folder / "photos", 4)
    wa.Gallery.build(HEADS["mean"](), folder / "photos", folder / "g.lance")
    with serving(folder / "g.lance", HEADS["mean"]) as made:
        yield made


def known(description: Any, ids: list[str]) -> Any:
    """The description with ids that exist, so that most of what is asked is found."""
    if isinstance(description, list):
        return [known(one, ids) for one in description]
    if not isinstance(description, dict):
        return description
    if description.get("pattern") == "^[0-9a-f]{32}$":
        return {"type": "string", "enum": [*ids, "0" * 32]}
    answered = ("responses", "components")  # there may be more ids
    return {
        name: value if name in answered else known(value, ids)
        for name, value in description.items()
    }


EXAMPLES = 40  # of each operation


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda one: one.value)
def test_nothing_that_is_asked_breaks_it(client: Client, mode: GenerationMode) -> None:
    upload = client.ask("/api/uploads", png(picture(5))).json()["query"]["upload"]
    ids = [one["id"] for one in client.photos()] + [upload]
    description = client.ask("/api/openapi.json").json()
    schema = schemathesis.openapi.from_dict(known(copy.deepcopy(description), ids))
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {one.path for one in operations} == set(description["paths"])
    statuses: list[int] = []
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.path == "/api/gallery":
            continue  # nothing can be wrong about it

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def ask(case: Any) -> None:
            response = case.call(base_url=client.address, timeout=30)
            statuses.append(response.status_code)
            case.validate_response(response, checks=CHECKS)

        ask()
    assert max(statuses) < 500
    if mode is GenerationMode.POSITIVE:
        assert statuses.count(200) > len(statuses) / 4
