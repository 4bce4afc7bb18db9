"""Checks a document against the part of JSON Schema that results.schema.json uses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).with_name("results.schema.json")

TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None),
}

KNOWN = {"$schema", "title", "description", "type", "enum", "required", "properties",
         "additionalProperties", "items", "minProperties"}


def problems(value: Any, schema: dict[str, Any], at: str = "$") -> list[str]:
    """What is wrong, one line each; nothing if the document is as the schema says."""
    if unknown := set(schema) - KNOWN:
        return [f"{at}: the schema has words that are not checked: {sorted(unknown)}"]
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(is_a(value, name) for name in names):
        return [f"{at}: expected {' or '.join(names)}, not {type(value).__name__}"]
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: {value!r} is none of {schema['enum']}")
    if isinstance(value, dict):
        found += [f"{at}: no {key}" for key in schema.get("required", []) if key not in value]
        if len(value) < schema.get("minProperties", 0):
            found.append(f"{at}: fewer than {schema['minProperties']} entries")
        known = schema.get("properties", {})
        rest = schema.get("additionalProperties", {})
        for key, part in value.items():
            if key in known or isinstance(rest, dict):
                found += problems(part, known.get(key, rest), f"{at}.{key}")
            elif rest is False:
                found.append(f"{at}: {key} is not in the schema")
    if isinstance(value, list) and "items" in schema:
        for i, part in enumerate(value):
            found += problems(part, schema["items"], f"{at}[{i}]")
    return found


def is_a(value: Any, name: str) -> bool:
    if name == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if name == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, TYPES[name])


def check(path: Path) -> list[str]:
    """The problems of a file of results."""
    return problems(json.loads(path.read_text()), json.loads(SCHEMA.read_text()))


if __name__ == "__main__":
    wrong = check(Path(sys.argv[1]))
    print("\n".join(wrong) or "valid")
    sys.exit(bool(wrong))
