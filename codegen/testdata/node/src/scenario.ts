// Acts out one scenario against a real gateway: node dist/scenario.js NAME URL [TOKEN]. The last line says how it went.
import assert from "node:assert/strict";
import { writeSync } from "node:fs";
import { Client, FatalError, ProblemError, TransientError, isEvent, newEvent, newID } from "./events/index.js";

const [name, url, token] = process.argv.slice(2) as [string, string, string];

function enrolled(patient: string, n: number, id = newID()) {
  return newEvent("patient.enrolled", 1, { patientId: patient, enrollmentId: String(n), program: { name: "Adherence" } }, { source: "enrolment", id });
}

async function problem(what: Promise<unknown>): Promise<ProblemError> {
  try {
    await what;
  } catch (err) {
    if (err instanceof ProblemError) return err;
    throw err;
  }
  throw new Error("it was not refused");
}

async function publish(): Promise<unknown> {
  const client = new Client(url, { token: () => Promise.resolve(token), pauseMs: 1 });
  const first = enrolled("P1", 1);
  let p = await client.publish(first);
  assert.equal(p.published, 1);
  assert.equal(p.results[0]?.eventId, first.metadata.eventId);
  assert.ok(p.results[0]?.recordedAt);

  p = await client.publish(first);
  assert.deepEqual([p.published, p.duplicates], [0, 1]);

  const second = newEvent("medication.prescription.created", 1, { prescriptionId: "RX1", patientId: "P1", medication: { name: "Adalimumab 40 mg pen" } },
    { source: "prescribing", cause: first, traceId: "4bf92f3577b34da6a3ce929d0e0e4736", at: new Date("2026-01-31T09:30:00Z") });
  assert.equal(second.metadata.correlationId, first.metadata.correlationId);
  p = await client.publish([second, enrolled("P2", 1)], { format: "cloudevents" });
  assert.equal(p.published, 2);

  // The same as a native envelope is the same event: nothing was lost on the way through CloudEvents.
  p = await client.publish(second);
  assert.equal(p.duplicates, 1);

  // What is wrong is told with place, rule and remedy.
  const wrong = { ...enrolled("P3", 1), payload: { patientId: 7, enrolmentId: "E1" } as never };
  let err = await problem(client.publish([enrolled("P3", 2), wrong]));
  assert.equal(err.status, 422);
  assert.equal(err.type, "urn:carebus:problem:invalid-event");
  assert.equal(err.findings[0]?.index, 1);
  assert.equal(err.findings[0]?.eventId, wrong.metadata.eventId);
  const pointers = err.findings[0]?.findings.map((f) => f.pointer) ?? [];
  assert.ok(pointers.includes("/payload/patientId"), String(pointers));
  assert.ok(err.findings[0]?.findings.every((f) => f.rule !== "" && f.message !== ""));
  assert.ok(!JSON.stringify(err.findings).includes("E1"), "a payload value is quoted");

  p = await client.publish([enrolled("P3", 3), wrong], { atomic: false });
  assert.deepEqual([p.published, p.refused, p.results[1]?.refused], [1, 1, true]);
  p = await client.publish(enrolled("P3", 4), { dryRun: true });
  assert.deepEqual([p.published, p.checked], [0, 1]);

  await client.publish(enrolled("P4", 1), { stream: "patient.enrolment/P4", expected: 0 });
  err = await problem(client.publish(enrolled("P4", 2), { stream: "patient.enrolment/P4", expected: 0 }));
  assert.deepEqual([err.status, err.actualVersion], [409, 1]);

  err = await problem(new Client(url, { token: "nobody's" }).publish(enrolled("P5", 1)));
  assert.deepEqual([err.status, err.transient], [401, false]);
  await assert.rejects(client.publish(enrolled("P5", 1), { signal: AbortSignal.abort(new Error("left")) }), /left/);

  // The answer is lost once, after the event was stored: it is sent again, and told as what it is.
  p = await new Client(url + "/lossy", { token, pauseMs: 1 }).publish(enrolled("P6", 1));
  assert.deepEqual([p.published, p.duplicates], [0, 1]);
  return {};
}

/** A caller with a rate is answered 429 with Retry-After, and gets through. */
async function slow(): Promise<unknown> {
  const statuses: number[] = [];
  const client = new Client(url, {
    token,
    fetch: async (...args) => {
      const response = await fetch(...args);
      statuses.push(response.status);
      return response;
    },
  });
  for (let i = 0; i < 6; i++) assert.equal((await client.publish(enrolled("P7", i))).published, 1);
  assert.ok(statuses.includes(429), String(statuses));
  const err = await problem(new Client(url, { token, tries: 1 }).publish(Array.from({ length: 50 }, (_, i) => enrolled("P8", i))));
  assert.equal(err.status, 429);
  assert.ok(err.retryAfterMs !== undefined && err.retryAfterMs > 0);
  return {};
}

/** Follows while connections are cut: every event once, in order per key. */
async function live(): Promise<unknown> {
  const wanted = Number(process.argv[5]);
  const client = new Client(url, { token, pauseMs: 1, silenceMs: 2000 });
  const next = new Map<string, number>();
  let seen = 0, cuts = 0, wrong = 0;
  let place = "";
  const stop = new AbortController();
  const take = async (options: object, until: number): Promise<void> => {
    for await (const live of client.subscribe("patient.enrolled", { ...options, onOpen: () => writeSync(1, "open\n"), onCut: () => { cuts++; }, signal: stop.signal })) {
      if (!isEvent(live.event, "patient.enrolled", 1)) throw new Error("another type");
      const { patientId, enrollmentId } = live.event.payload;
      const expected = next.get(patientId) ?? 0;
      if (Number(enrollmentId) !== expected) wrong++;
      next.set(patientId, expected + 1);
      place = live.place;
      if (++seen === until) break; // leaves the loop, and the connection with it
    }
  };
  await take({ from: "now" }, wanted / 2);
  await take({ after: place }, wanted); // as another process would go on
  // An abort ends a stream that waits.
  const idle = (async () => { for await (const _ of client.subscribe("patient.enrolled", { onOpen: () => stop.abort(), signal: stop.signal })) void _; })();
  await idle;
  return { seen, cuts, wrong };
}

/** The first connection falls silent, and is given up for another. */
async function silence(): Promise<unknown> {
  const client = new Client(url, { token, pauseMs: 1, silenceMs: 300 });
  await client.publish(enrolled("P9", 1));
  const cuts: unknown[] = [];
  for await (const { event } of client.subscribe("patient.enrolled", { from: "beginning", onCut: (reason) => cuts.push(reason) })) {
    assert.equal(event.metadata.eventType, "patient.enrolled");
    break;
  }
  assert.ok(cuts.length >= 1);
  assert.match(String(cuts[0]), /nothing came for 300 ms/);
  return {};
}

/** A member of a group, until it is told to leave or is killed. It says on its output what it has handled. */
async function consume(): Promise<unknown> {
  const client = new Client(url, { token, pauseMs: 10 });
  const group = client.group("partner", "patient.**");
  await group.put({ maxDeliveries: 1000 });
  const stop = new AbortController();
  process.on("SIGTERM", () => stop.abort());
  await group.consume(async (d, signal) => {
    if (!isEvent(d.event, "patient.enrolled", 1)) throw new FatalError("another type");
    const { patientId, enrollmentId } = d.event.payload;
    if (patientId === "poison") throw new FatalError("cannot be handled");
    if (patientId === "later" && d.attempt === 1) throw new TransientError("not there yet");
    if (patientId === "long") { // longer than its lease, which is extended
      await new Promise((resolve) => setTimeout(resolve, 2500));
      if (signal.aborted) return;
    } else {
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 4));
    }
    writeSync(1, `handled ${patientId} ${enrollmentId} ${d.attempt}\n`);
  }, { concurrency: 8, waitSeconds: 5, leaseSeconds: 1, signal: stop.signal });
  return {};
}

const scenarios: Record<string, () => Promise<unknown>> = { publish, slow, live, silence, consume };
const outcome = await scenarios[name]!();
writeSync(1, `ok ${JSON.stringify(outcome)}\n`);
process.exit(0); // connections that are kept alive would hold the process for some seconds
