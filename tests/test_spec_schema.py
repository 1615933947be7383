"""The JSON Schema for editors: complete, and of one mind with the reader."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from saccade.errors import SpecError
from saccade.spec_reader import json_schema, parse_spec, read_spec

VALID: dict[str, Any] = {
    "name": "x",
    "data": {"dataset": "toy", "exclude": ["a"]},
    "evaluation": {"retrieval": {"topk": [1, 5]}},
    "checkpoint": {"every_steps": None},
    "pretrain": {"learning_rate": 0.5},
}


def schema_accepts(schema: dict[str, Any], value: object, definitions: dict[str, Any]) -> bool:
    """The part of JSON Schema 2020-12 that `json_schema` uses, written down from the standard."""
    if "$ref" in schema:
        return schema_accepts(definitions[schema["$ref"].removeprefix("#/$defs/")], value, definitions)
    if "anyOf" in schema:
        return any(schema_accepts(option, value, definitions) for option in schema["anyOf"])
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kind = schema["type"]
    if kind in ("number", "integer"):
        return bool(
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and (kind == "number" or value == int(value))
            and value >= schema.get("minimum", value)
            and value <= schema.get("maximum", value)
            and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
            and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
        )
    if not isinstance(value, kinds[kind]) or ("enum" in schema and value not in schema["enum"]):
        return False
    if isinstance(value, str):
        return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)))
    if isinstance(value, list):
        entries = all(schema_accepts(schema["items"], entry, definitions) for entry in value)
        return bool(entries and len(value) >= schema.get("minItems", 0))
    if isinstance(value, dict):
        known = schema["properties"]
        fits = all(key in known and schema_accepts(known[key], entry, definitions) for key, entry in value.items())
        return fits and value.keys() >= set(schema.get("required", ()))
    return True


def test_json_schema_describes_every_setting() -> None:
    schema = json.loads(json_schema())
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["required"] == ["name"]
    sections = [schema, *schema["$defs"].values()]
    assert len(sections) == 17
    for section in sections:
        assert section["additionalProperties"] is False
        assert section["description"]
        for name, field in section["properties"].items():
            assert field.get("description") or "$ref" in field, name
            assert field.get("title") or "$ref" in field, name
    assert schema["$defs"]["PretrainSpec"]["properties"]["momentum"]["description"] == "Momentum of SGD. Method: 0.9."


@pytest.mark.parametrize(
    ("override", "fits"),
    [
        ("seed=1", True),
        ("pretrain.learning_rate=0", False),
        ("pretrain.learning_rate=1", True),
        ("pretrain.momentum=1", False),
        ("checkpoint.every_steps=0", False),
        ("checkpoint.every_steps=5", True),
        ("encoder.name=R3D", False),
        ("prototypes.num_clusters=[0]", False),
        ("prototypes.num_clusters=8", False),
        ("evaluation.retrieval.topk=[]", False),
        ("saccade.deduplicate=1", False),
        ('name=""', False),
        ("name=null", False),
        ("saccade.focus_level=6", False),
    ],
)
def test_json_schema_and_reader_agree(override: str, fits: bool) -> None:
    schema = json.loads(json_schema())
    values = copy.deepcopy(VALID)
    path, _, text = override.partition("=")
    *above, last = path.split(".")
    section = values
    for part in above:
        section = section.setdefault(part, {})
    section[last] = yaml.safe_load(text)
    assert schema_accepts(schema, values, schema["$defs"]) is fits
    if fits:
        parse_spec(json.dumps(VALID), "e.yaml", [override])
    else:
        with pytest.raises(SpecError, match=f"^--set {path}="):
            parse_spec(json.dumps(VALID), "e.yaml", [override])


def test_json_schema_refuses_unknown_keys() -> None:
    schema = json.loads(json_schema())
    refused: list[object] = [{"name": "x", "bogus": 1}, {"name": "x", "pretrain": {"bogus": 1}}, {"seed": 1}, []]
    for values in refused:
        assert not schema_accepts(schema, values, schema["$defs"])


def test_shipped_experiments_fit_the_schema_and_are_read() -> None:
    files = sorted((Path(__file__).parent.parent / "experiments").rglob("*.yaml"))
    if not files:
        pytest.skip("no experiments/*.yaml yet")
    schema = json.loads(json_schema())
    for path in files:
        spec = read_spec(path)
        assert schema_accepts(schema, json.loads(spec.model_dump_json()), schema["$defs"]), path
