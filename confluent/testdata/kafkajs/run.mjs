// Registers, encodes and decodes with the client for KafkaJS against the registry at SCHEMA_REGISTRY_URL.
import assert from "node:assert/strict";
import registryModule from "@kafkajs/confluent-schema-registry";
import { Ajv2020 } from "ajv/dist/2020.js";

const { SchemaRegistry, SchemaType, COMPATIBILITY } = registryModule;
const host = process.env.SCHEMA_REGISTRY_URL;
assert.ok(host, "set SCHEMA_REGISTRY_URL");

// The schemas are JSON Schema 2020-12 with annotations of their own, which Ajv takes only when told so.
const ajvInstance = new Ajv2020({ strict: false });
const registry = new SchemaRegistry({ host }, { [SchemaType.JSON]: { ajvInstance } });

const subject = "imaging.study.acquired";
const schema = (members) => JSON.stringify({
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  "x-entity-id": "/studyId",
  properties: Object.fromEntries(members.map((m) => [m, { type: "string" }])),
  required: ["studyId"],
});
const register = (members, options) =>
  registry.register({ type: SchemaType.JSON, schema: schema(members) }, { subject, compatibility: COMPATIBILITY.FULL_TRANSITIVE, ...options });

const first = await register(["studyId"]);
assert.ok(first.id > 0);
assert.equal((await register(["studyId"])).id, first.id, "registering again gives another id");
const second = await register(["studyId", "modality"]);
assert.notEqual(second.id, first.id);
await assert.rejects(register(["studyId", "device"]), /property-removed|modality/);
await assert.rejects(register(["studyId"], { compatibility: COMPATIBILITY.BACKWARD }), /FULL_TRANSITIVE/);
await assert.rejects(registry.register({ type: SchemaType.AVRO, schema: '{"type":"record","name":"A","namespace":"imaging.study","fields":[]}' },
  { subject: "imaging.study.archived", compatibility: COMPATIBILITY.FULL_TRANSITIVE }), /JSON Schema/);

assert.equal(await registry.getLatestSchemaId(subject), second.id);
assert.equal(await registry.getRegistryId(subject, 1), first.id);
assert.equal(await registry.getRegistryIdBySchema(subject, { type: SchemaType.JSON, schema: schema(["studyId"]) }), first.id);

const study = { studyId: "S-1", modality: "MR" };
const framed = await registry.encode(second.id, study);
assert.equal(framed[0], 0);
assert.equal(framed.readInt32BE(1), second.id);
const reader = new SchemaRegistry({ host }, { [SchemaType.JSON]: { ajvInstance } }); // knows nothing but the id
assert.deepEqual(await reader.decode(framed), study);
await assert.rejects(registry.encode(second.id, { modality: 5 }));

console.log("ok");
