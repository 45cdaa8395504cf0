// The CloudEvents SDK for JavaScript posts and receives: node cloudevents.mjs URL TOKEN
import assert from "node:assert/strict";
import http from "node:http";
import { CloudEvent, HTTP } from "cloudevents";

const [url, token] = process.argv.slice(2);
const auth = { authorization: "Bearer " + token };

const event = (id, patient) => new CloudEvent({
  id, source: "/enrolment", type: "patient.enrolled", time: "2026-01-31T09:30:00.000Z", datacontenttype: "application/json",
  correlationid: "c-" + patient, schemaversion: "1.0.0",
  data: { patientId: patient, enrollmentId: "E-" + id, program: { name: "Adherence" } },
});

async function post(message) {
  const response = await fetch(url + "/v1/events", { method: "POST", headers: { ...auth, ...message.headers }, body: message.body });
  return [response.status, await response.json()];
}

// Received by a webhook, and by a live stream.
const pushed = new Map();
let came;
const receiver = http.createServer((request, response) => {
  const pieces = [];
  request.on("data", (d) => pieces.push(d)).on("end", () => {
    const e = HTTP.toEvent({ headers: request.headers, body: Buffer.concat(pieces).toString() });
    pushed.set(e.id, e);
    response.writeHead(204).end();
    came?.();
  });
});
await new Promise((resolve) => receiver.listen(0, "127.0.0.1", resolve));
let response = await fetch(url + "/v1/webhooks", {
  method: "POST", headers: { ...auth, "content-type": "application/json" },
  body: JSON.stringify({ id: "js", url: `http://127.0.0.1:${receiver.address().port}/`, patterns: ["patient.enrolled"], format: "cloudevents", start: "now" }),
});
assert.equal(response.status, 201, await response.text());

const live = await fetch(url + "/v1/live?format=cloudevents&type=patient.enrolled&from=now", { headers: auth });
const reader = live.body.pipeThrough(new TextDecoderStream()).getReader();
let text = "";
while (!text.includes("\n\n")) text += (await reader.read()).value; // it stands: what comes now is seen

let [status, answer] = await post(HTTP.structured(event("s-1", "PS")));
assert.deepEqual([status, answer.published], [201, 1]);
[status, answer] = await post(HTTP.binary(event("b-1", "PB")));
assert.deepEqual([status, answer.published], [201, 1]);
[status, answer] = await post({
  headers: { "content-type": "application/cloudevents-batch+json" },
  body: JSON.stringify([event("a-1", "PA"), event("a-2", "PA"), event("s-1", "PS")]),
});
assert.deepEqual([status, answer.published, answer.duplicates], [201, 2, 1]);
[status, answer] = await post(HTTP.structured(event("x-1", undefined)));
assert.equal(status, 422);
assert.match(JSON.stringify(answer), /payload\/patientId/);

const wanted = ["s-1", "b-1", "a-1", "a-2"];
const received = new Map();
while (received.size < wanted.length) {
  text += (await reader.read()).value;
  const parts = text.split("\n\n");
  text = parts.pop();
  for (const part of parts) {
    const data = part.split("\n").filter((l) => l.startsWith("data: ")).map((l) => l.slice(6)).join("\n");
    if (data === "") continue;
    const e = HTTP.toEvent({ headers: { "content-type": "application/cloudevents+json" }, body: data });
    received.set(e.id, e);
  }
}
await reader.cancel();
while (pushed.size < wanted.length) await new Promise((resolve) => { came = resolve; });
for (const id of wanted) {
  for (const e of [received.get(id), pushed.get(id)]) {
    assert.ok(e, id);
    e.validate();
    assert.equal(e.type, "patient.enrolled");
    assert.equal(e.source, "/enrolment");
    assert.equal(e.correlationid, "c-" + e.data.patientId);
    assert.equal(e.time, "2026-01-31T09:30:00.000Z");
    assert.equal(e.data.enrollmentId, "E-" + id);
    assert.equal(e.partitionkey, e.data.patientId);
  }
}
console.log("ok");
process.exit(0);
