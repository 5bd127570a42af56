"""Values made from the schema: one of each key, so that a test misses none."""

import re

from chart import SCHEMA

TEXTS = ["", "a", "other", "/a", "8x8", "16x16", "s3://bucket/key", "https://a", "auto", "1", "10%", "sha256:" + "0" * 64, "0" * 64]


def resolved(schema):
    while "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
    return schema


def sample(schema, other_than=None):
    """A value that the schema takes, with every key that it knows, and not `other_than`."""
    schema = resolved(schema)
    if "enum" in schema:
        return next(value for value in schema["enum"] if value != other_than)
    if "oneOf" in schema:
        return sample(schema["oneOf"][0], other_than)
    kind = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
    if kind == "object":
        if "properties" in schema:
            return {key: sample(inner) for key, inner in schema["properties"].items()}
        names = schema.get("propertyNames", {}).get("pattern", "")
        return {next(text for text in ["a", "cpu"] if re.search(names, text)): sample(schema["additionalProperties"])}
    if kind == "array":
        return [sample(schema["items"])]
    if kind == "boolean":
        return other_than is not True
    if kind in ("integer", "number"):
        lowest = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        return lowest if lowest != other_than else lowest + 1
    fits = (text for text in TEXTS if re.search(schema.get("pattern", ""), text) and len(text) >= schema.get("minLength", 0))
    return next(text for text in fits if text != other_than)


def objects(schema, value, path=()):
    """Each map in `value` whose keys the schema names, as its path and its keys."""
    schema = resolved(schema)
    if isinstance(value, dict):
        named = schema.get("properties", {})
        if named:
            yield path, sorted(named)
        for key, inner in value.items():
            yield from objects(named.get(key, schema.get("additionalProperties")), inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from objects(schema["items"], inner, (*path, index))


def leaves(schema, value, path=()):
    """Each value that holds no named keys, as its path, its schema and itself."""
    schema = resolved(schema)
    if isinstance(value, dict) and value and "properties" in schema:
        for key, inner in value.items():
            yield from leaves(schema["properties"][key], inner, (*path, key))
    else:
        yield path, schema, value
