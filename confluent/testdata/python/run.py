"""Registers, serializes and deserializes with confluent-kafka against the registry at SCHEMA_REGISTRY_URL."""

import json
import os

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, record_subject_name_strategy
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

SUBJECT = "imaging.report.signed"


def schema(*members):
    return json.dumps({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SUBJECT,  # the serializer names the subject after it
        "type": "object",
        "x-entity-id": "/reportId",
        "properties": {m: {"type": "string"} for m in members},
        "required": ["reportId"],
    })


def refused(code, call):
    try:
        call()
    except SchemaRegistryError as e:
        assert e.error_code == code, e
    else:
        raise AssertionError(f"not refused with {code}")


client = SchemaRegistryClient({"url": os.environ["SCHEMA_REGISTRY_URL"]})
first = client.register_schema(SUBJECT, Schema(schema("reportId"), "JSON"))
assert client.register_schema(SUBJECT, Schema(schema("reportId"), "JSON")) == first
assert client.get_schema_types() == ["JSON"]
assert client.get_compatibility(SUBJECT) == "FULL_TRANSITIVE"
assert client.set_compatibility(SUBJECT, "FULL_TRANSITIVE")
refused(42205, lambda: client.set_compatibility(SUBJECT, "BACKWARD"))
assert client.test_compatibility(SUBJECT, Schema(schema("reportId", "signedBy"), "JSON"))
retyped = Schema(schema("reportId").replace('"string"', '"integer"'), "JSON")
assert not client.test_compatibility(SUBJECT, retyped)
refused(409, lambda: client.register_schema(SUBJECT, retyped))
refused(42201, lambda: client.register_schema(SUBJECT, Schema('{"type":"string"}', "AVRO")))

# What the serializer does by default: it registers, frames and validates.
text = schema("reportId", "signedBy")
serialize = JSONSerializer(text, client, conf={"subject.name.strategy": record_subject_name_strategy})
context = SerializationContext("reports", MessageField.VALUE)
report = {"reportId": "R-1", "signedBy": "D-7"}
framed = serialize(report, context)
assert framed[0] == 0

latest = client.get_latest_version(SUBJECT)
assert latest.version == 2 and latest.schema_id == int.from_bytes(framed[1:5], "big"), latest
assert latest.schema.metadata.properties.properties["version"] == "1.1.0", latest
assert latest.schema.schema_str == text
assert client.get_latest_with_metadata(SUBJECT, {"version": "1.0.0"}).schema_id == first
assert client.lookup_schema(SUBJECT, Schema(schema("reportId"), "JSON")).version == 1
assert client.get_versions(SUBJECT) == [1, 2]
assert SUBJECT in client.get_subjects()
assert [v.subject for v in client.get_schema_versions(first)] == [SUBJECT]

reader = SchemaRegistryClient({"url": os.environ["SCHEMA_REGISTRY_URL"]})
deserialize = JSONDeserializer(None, schema_registry_client=reader, conf={"subject.name.strategy": record_subject_name_strategy})
assert deserialize(framed, context) == report

assert client.delete_version(SUBJECT, 1) == 1
refused(42205, lambda: client.delete_version(SUBJECT, 1, permanent=True))
assert client.delete_subject(SUBJECT) == [2]

print("ok")
