import { toCloudEvent, type AnyEvent, type EventOf, type Matching } from "./envelope.js";

/** One thing that is wrong: the place as a JSON pointer, the rule, and what to do. It never quotes a payload's values. */
export interface Finding {
  pointer: string;
  rule: string;
  message: string;
  remedy?: string;
  warning?: boolean;
}

/** What is wrong with one event of a request. */
export interface Refusal {
  index: number;
  eventId?: string;
  eventType?: string;
  findings: Finding[];
}

/** An answer that is a problem document (RFC 9457). */
export class ProblemError extends Error {
  override readonly name = "ProblemError";
  /** The HTTP status. */
  readonly status: number;
  /** The kind of problem, such as "urn:carebus:problem:invalid-event". */
  readonly type: string;
  readonly title: string;
  readonly detail: string;
  /** What is wrong with each event of the request. */
  readonly findings: readonly Refusal[];
  /** On a version conflict: the version that the stream has. */
  readonly actualVersion: number | undefined;
  /** How long to wait before the next try, in milliseconds, when the answer says so. */
  readonly retryAfterMs: number | undefined;

  constructor(response: { status: number; statusText: string; headers: Headers }, body: unknown) {
    const p = (typeof body === "object" && body !== null ? body : {}) as Record<string, unknown>;
    const title = typeof p["title"] === "string" ? p["title"] : response.statusText || `status ${response.status}`;
    const detail = typeof p["detail"] === "string" ? p["detail"] : "";
    super(detail === "" ? title : `${title}: ${detail}`);
    this.status = response.status;
    this.type = typeof p["type"] === "string" ? p["type"] : "about:blank";
    this.title = title;
    this.detail = detail;
    this.findings = Array.isArray(p["findings"]) ? (p["findings"] as Refusal[]) : [];
    this.actualVersion = typeof p["actualVersion"] === "number" ? p["actualVersion"] : undefined;
    this.retryAfterMs = retryAfter(response.headers.get("Retry-After"));
  }

  /** Whether the same request may succeed later: the gateway is under pressure, or away for a moment. */
  get transient(): boolean {
    return [408, 429, 502, 503, 504].includes(this.status);
  }
}

function retryAfter(text: string | null): number | undefined {
  if (text === null) return undefined;
  const seconds = Number(text);
  if (Number.isFinite(seconds)) return Math.max(0, seconds * 1000);
  const at = Date.parse(text);
  return Number.isNaN(at) ? undefined : Math.max(0, at - Date.now());
}

/** Settings of a client. */
export interface ClientOptions {
  /** The bearer token, or how to get one; it is asked for before every request. */
  token?: string | (() => string | Promise<string>);
  /** How often a request that may be repeated is tried in all. Default: 8. */
  tries?: number;
  /** The first pause between tries, in milliseconds; it doubles up to 10 s. An answer's Retry-After comes first. Default: 100. */
  pauseMs?: number;
  /** A live stream that is silent for so long is taken for dead and opened anew. Default: 45 000, three heartbeats. */
  silenceMs?: number;
  /** In place of the global fetch. */
  fetch?: typeof fetch;
}

export interface PublishOptions {
  /** All or none. Default: true. Otherwise every event has its own result. */
  atomic?: boolean;
  /** Only check. */
  dryRun?: boolean;
  /** The history of one entity to append to, such as "patient.record/P1". */
  stream?: string;
  /** With stream: the version that it must be at, 0 for a new one. */
  expected?: number;
  /** How the events travel. Default: "native". */
  format?: "native" | "cloudevents";
  signal?: AbortSignal;
}

/** What became of one event. */
export interface Result {
  index: number;
  eventId?: string;
  eventType?: string;
  partition?: number;
  offset?: number;
  stream?: string;
  streamVersion?: number;
  recordedAt?: string;
  /** It was stored before. */
  duplicate?: boolean;
  refused?: boolean;
  /** Why it was refused, or warnings. */
  findings?: Finding[];
}

/** What became of a publication. */
export interface Published {
  /** Events stored by this request. */
  published: number;
  /** Events that were stored before. */
  duplicates: number;
  refused: number;
  /** With dryRun: events that would be accepted. */
  checked?: number;
  results: Result[];
}

export interface SubscribeOptions {
  /** Where to begin: "now" (the default), "beginning", or a time of recording. */
  from?: "now" | "beginning" | Date;
  /** The place after which to go on: the place of the last event that was handled. It comes before from. */
  after?: string;
  /** Only this partition key. */
  key?: string;
  /** Only this flow. */
  correlation?: string;
  /** Only what this service states. */
  source?: string;
  /** Called whenever a connection stands and the stream knows its place; the first time nothing stored later is missed. */
  onOpen?: (place: string) => void;
  /** Called when a connection was cut, before it is opened anew. */
  onCut?: (reason: unknown) => void;
  signal?: AbortSignal;
}

/** An event of a live stream. */
export interface Live<E extends AnyEvent = AnyEvent> {
  event: E;
  /** Store it with what you did, and give it back as after: the stream goes on behind this event. */
  place: string;
}

/** Settings of a consumer group. */
export interface GroupSettings {
  /** Where a new group begins. Default: "beginning". */
  start?: "beginning" | "now" | Date;
  /** How long a fetched event is its consumer's. Default: 30. */
  leaseSeconds?: number;
  /** After so many leases of an event that ran out in a row, its key is parked. Default: 10. */
  maxDeliveries?: number;
  /** How often an event is tried before an error parks its key. Default: 3. */
  tries?: number;
  /** Events that wait for consumers or are leased, at most. Default: 240. */
  inFlight?: number;
  /** What becomes of an event that failed for good. Default: "park". */
  onFailure?: "park" | "skip" | "stop";
}

/** An event as the store has it. */
export interface Stored {
  partition: number;
  offset: number;
  stream?: string;
  streamVersion?: number;
  recordedAt: string;
}

/** An event that a consumer has for a time. */
export interface Delivery<E extends AnyEvent = AnyEvent> {
  lease: string;
  /** When it is given to others, unless it is acknowledged or extended before. */
  until: string;
  /** 1 for the first time. */
  attempt: number;
  /** Its key was parked and is being tried again. */
  redrive?: boolean;
  /** It was handled before; suppress side effects. */
  replay?: boolean;
  event: E & Stored;
}

/** Which leases were settled, and which had run out: their events come again. */
export interface Settled {
  settled: string[];
  expired: string[];
}

/** Thrown by a handler: something that it needs is down. The event is tried again for as long as it takes. */
export class TransientError extends Error {
  override readonly name = "TransientError";
}

/** Thrown by a handler: no further try will help. The key is parked at once. */
export class FatalError extends Error {
  override readonly name = "FatalError";
}

export interface ConsumeOptions {
  /** Events that are handled at once, at most, up to 1000; those of one key never are. Default: 16. */
  concurrency?: number;
  /** How long an event is ours when we fall silent. Leases are extended while handlers run. Default: 30. */
  leaseSeconds?: number;
  /** How long one fetch waits for events. Default: 20. */
  waitSeconds?: number;
  /** Ends the loop: nothing more is fetched, handlers are told by their signal, and what they finish is settled. */
  signal?: AbortSignal;
}

/** A request, as Client sends it for a Group. */
export interface Call {
  method: string;
  path: string;
  query?: URLSearchParams;
  body?: unknown;
  contentType?: string;
  signal?: AbortSignal | undefined;
  /** Whether it may be sent again when it is not known what became of it. */
  again: boolean;
}

/** A client of one gateway. It holds no connection and needs no closing. */
export class Client {
  readonly #url: string;
  readonly #o: ClientOptions;
  readonly #fetch: typeof fetch;

  /** url is where the gateway is, such as "https://carebus.example.org". */
  constructor(url: string, options: ClientOptions = {}) {
    this.#url = url.replace(/\/+$/, "");
    this.#o = options;
    this.#fetch = options.fetch ?? ((...args) => fetch(...args));
  }

  /**
   * Publishes one event or a batch. When it returns, the events are on stable storage. It is tried again under back
   * pressure and when the connection breaks: what was stored already counts as a duplicate. Events that break a rule are
   * a ProblemError with the findings for each; with atomic: false they are told in the results.
   */
  async publish(events: EventOf | readonly EventOf[], options: PublishOptions = {}): Promise<Published> {
    const list = Array.isArray(events) ? (events as readonly EventOf[]) : [events as EventOf];
    const query = new URLSearchParams();
    if (options.atomic !== undefined) query.set("atomic", String(options.atomic));
    if (options.dryRun !== undefined) query.set("dryRun", String(options.dryRun));
    if (options.stream !== undefined) query.set("stream", options.stream);
    if (options.expected !== undefined) query.set("expected", String(options.expected));
    const cloud = options.format === "cloudevents";
    return this.#json<Published>({
      method: "POST", path: "/v1/events", query, signal: options.signal, again: true,
      body: cloud ? list.map(toCloudEvent) : list,
      contentType: cloud ? "application/cloudevents-batch+json" : "application/json",
    });
  }

  /**
   * Follows events as they are stored, those of the given types or patterns such as "medication.**". A connection that is
   * cut is opened anew, where it was, without a gap or a repetition, until the loop is left or the signal aborts.
   */
  async *subscribe<const P extends string>(patterns: P | readonly P[], options: SubscribeOptions = {}): AsyncGenerator<Live<EventOf<Matching<P>>>, void, void> {
    const query = new URLSearchParams();
    for (const p of typeof patterns === "string" ? [patterns] : patterns) query.append("type", p);
    for (const name of ["key", "correlation", "source"] as const) {
      if (options[name] !== undefined) query.set(name, options[name]);
    }
    query.set("from", options.from instanceof Date ? options.from.toISOString() : (options.from ?? "now"));
    let place = options.after ?? "";
    for (let failures = 0; ; ) {
      const silence = new Silence(this.#o.silenceMs ?? 45_000, options.signal);
      let cut: unknown;
      try {
        const headers: Record<string, string> = { Accept: "text/event-stream" };
        if (place !== "") headers["Last-Event-ID"] = place;
        const response = await this.#send("GET", "/v1/live?" + query.toString(), headers, undefined, silence.signal);
        let open = false;
        for await (const message of messages(response, silence)) {
          place = message.id;
          failures = 0;
          if (!open) {
            open = true;
            options.onOpen?.(place);
          }
          if (message.data !== "") yield { event: JSON.parse(message.data) as EventOf<Matching<P>>, place };
        }
        cut = new Error("the stream ended");
      } catch (err) {
        if (options.signal?.aborted) return;
        if (err instanceof ProblemError && !err.transient) throw err;
        if (err instanceof SyntaxError) throw err;
        cut = err;
      } finally {
        silence.end();
      }
      if (options.signal?.aborted) return;
      options.onCut?.(cut);
      await this.#pause(failures++, cut, options.signal).catch(() => undefined);
      if (options.signal?.aborted) return;
    }
  }

  /** A consumer group that is served over HTTP. Nothing is sent before one of its methods is called. */
  group<const P extends string>(name: string, patterns: P | readonly P[]): Group<EventOf<Matching<P>>> {
    return new Group(name, typeof patterns === "string" ? [patterns] : [...patterns], (call) => this.#json(call));
  }

  /** Sends a request, again if it may be, and reads the JSON answer. */
  async #json<A>(call: Call): Promise<A> {
    const query = call.query?.toString() ?? "";
    const target = call.path + (query === "" ? "" : "?" + query);
    const body = call.body === undefined ? undefined : JSON.stringify(call.body);
    for (let failures = 0; ; failures++) {
      try {
        const response = await this.#send(call.method, target, { Accept: "application/json", "Content-Type": call.contentType ?? "application/json" }, body, call.signal);
        const text = await response.text();
        return (text === "" ? undefined : JSON.parse(text)) as A;
      } catch (err) {
        // A refusal under pressure has done nothing. A broken connection may have: that is for requests that may be repeated.
        const may = err instanceof ProblemError ? err.status === 429 || (err.transient && call.again) : call.again && !(err instanceof SyntaxError);
        if (call.signal?.aborted || !may || failures + 1 >= (this.#o.tries ?? 8)) throw err;
        await this.#pause(failures, err, call.signal);
      }
    }
  }

  /** Sends a request; an answer that is an error is thrown. */
  async #send(method: string, target: string, headers: Record<string, string>, body: string | undefined, signal: AbortSignal | undefined): Promise<Response> {
    const token = typeof this.#o.token === "function" ? await this.#o.token() : this.#o.token;
    if (token !== undefined) headers["Authorization"] = "Bearer " + token;
    const init: RequestInit = { method, headers };
    if (body !== undefined) init.body = body;
    if (signal !== undefined) init.signal = signal;
    const response = await this.#fetch(this.#url + target, init);
    if (response.ok) return response;
    const text = await response.text();
    let problem: unknown;
    try {
      problem = JSON.parse(text);
    } catch {
      problem = undefined; // what stands between us and the gateway may answer with a page
    }
    throw new ProblemError(response, problem);
  }

  /** Waits between two tries: as long as the answer says, else longer each time, at random so that clients do not come together. */
  async #pause(failures: number, err: unknown, signal: AbortSignal | undefined): Promise<void> {
    const longest = Math.min((this.#o.pauseMs ?? 100) * 2 ** Math.min(failures, 16), 10_000);
    const asked = err instanceof ProblemError ? err.retryAfterMs : undefined;
    await sleep(asked ?? longest * (0.5 + Math.random() / 2), signal);
  }
}

/** A consumer group: its events are shared among all who fetch, each at least once, those of one key in order. */
export class Group<E extends AnyEvent> {
  readonly name: string;
  readonly patterns: readonly string[];
  readonly #call: <A>(call: Call) => Promise<A>;

  /** Use Client.group. */
  constructor(name: string, patterns: readonly string[], call: <A>(call: Call) => Promise<A>) {
    this.name = name;
    this.patterns = patterns;
    this.#call = call;
  }

  /** Creates the group, or changes its settings. */
  async put(settings: GroupSettings = {}, signal?: AbortSignal): Promise<void> {
    const start = settings.start instanceof Date ? settings.start.toISOString() : settings.start;
    await this.#call({ method: "PUT", path: this.#path(""), body: { ...settings, ...(start === undefined ? {} : { start }), patterns: this.patterns }, signal, again: true });
  }

  /** Waits for events and takes them with a lease. Settle each with ack or nack; extend what takes longer. */
  async fetch(options: { max?: number; waitSeconds?: number; leaseSeconds?: number; signal?: AbortSignal } = {}): Promise<Delivery<E>[]> {
    const { signal, ...body } = options;
    // Not sent again when the answer was lost: what it leased comes when the lease has run out.
    const answer = await this.#call<{ events: Delivery<E>[] }>({ method: "POST", path: this.#path("/fetch"), body, signal, again: false });
    return answer.events;
  }

  /** The events are handled. */
  ack(leases: readonly string[], signal?: AbortSignal): Promise<Settled> {
    return this.#call({ method: "POST", path: this.#path("/ack"), body: { leases }, signal, again: true });
  }

  /**
   * The events could not be handled. "error": tried again a few times, then the key is parked. "transient": something is
   * down; tried again for as long as it takes. "fatal": parked at once. The text is for the dead letter: no protected values.
   */
  nack(leases: readonly string[], kind: "error" | "transient" | "fatal", text: string, signal?: AbortSignal): Promise<Settled> {
    return this.#call({ method: "POST", path: this.#path("/nack"), body: { leases, kind, error: text.slice(0, 400) }, signal, again: true });
  }

  /** Keeps events for longer, from now on. */
  extend(leases: readonly string[], leaseSeconds?: number, signal?: AbortSignal): Promise<Settled> {
    return this.#call({ method: "POST", path: this.#path("/extend"), body: { leases, ...(leaseSeconds === undefined ? {} : { leaseSeconds }) }, signal, again: true });
  }

  /**
   * Hands events to a handler until the signal aborts. An event is acknowledged when its handler returns. When it throws,
   * the event is tried again, by the rules of TransientError, FatalError, or any other error; the error's message becomes
   * part of the dead letter, so it must not hold protected values. Leases are extended while handlers run; the handler's
   * signal aborts when its lease is lost all the same, or the loop ends. Delivery is at least once: an event may come again
   * after a crash.
   */
  async consume(handler: (delivery: Delivery<E>, signal: AbortSignal) => Promise<void> | void, options: ConsumeOptions = {}): Promise<void> {
    const limit = Math.min(options.concurrency ?? 16, 1000); // as many as one request settles
    const leaseSeconds = options.leaseSeconds ?? 30;
    const running = new Set<Promise<void>>();
    const settle = new Settler(this);
    let failures = 0;
    try {
      while (!options.signal?.aborted) {
        if (running.size >= limit) {
          await Promise.race(running);
          continue;
        }
        let batch: Delivery<E>[];
        try {
          batch = await this.fetch({
            max: limit - running.size, waitSeconds: options.waitSeconds ?? 20, leaseSeconds,
            ...(options.signal === undefined ? {} : { signal: options.signal }),
          });
          failures = 0;
        } catch (err) {
          if (options.signal?.aborted) break;
          if (err instanceof ProblemError && !err.transient) throw err;
          await sleep(Math.min(100 * 2 ** Math.min(failures++, 8), 10_000), options.signal).catch(() => undefined);
          continue;
        }
        for (const delivery of batch) {
          const one = this.#handle(delivery, handler, settle, leaseSeconds, options.signal).finally(() => running.delete(one));
          running.add(one);
        }
      }
    } finally {
      await Promise.all(running);
      await settle.rest();
    }
  }

  async #handle(delivery: Delivery<E>, handler: (delivery: Delivery<E>, signal: AbortSignal) => Promise<void> | void, settle: Settler, leaseSeconds: number, stop: AbortSignal | undefined): Promise<void> {
    const lost = new AbortController();
    const signal = stop === undefined ? lost.signal : AbortSignal.any([lost.signal, stop]);
    const keep = setInterval(() => {
      this.extend([delivery.lease], leaseSeconds).then(
        (s) => { if (s.expired.length > 0) lost.abort(new Error("the lease ran out")); },
        () => undefined, // the next one may come through
      );
    }, (leaseSeconds * 1000) / 3);
    try {
      await handler(delivery, signal);
      settle.ack(delivery.lease);
    } catch (err) {
      if (lost.signal.aborted) return; // it is somebody else's now
      const text = err instanceof Error ? `${err.name}: ${err.message}` : "the handler threw what is no Error";
      const kind = err instanceof FatalError ? "fatal" : err instanceof TransientError || stop?.aborted ? "transient" : "error";
      settle.nack(delivery.lease, kind, text);
    } finally {
      clearInterval(keep);
    }
  }

  #path(act: string): string {
    return "/v1/groups/" + encodeURIComponent(this.name) + act;
  }
}

/** Settler sends acknowledgements in the order they come, those that wait together in one request. */
class Settler {
  #leases: string[] = [];
  #sending: Promise<void> = Promise.resolve();

  readonly #group: Pick<Group<AnyEvent>, "ack" | "nack">;

  constructor(group: Pick<Group<AnyEvent>, "ack" | "nack">) {
    this.#group = group;
  }

  ack(lease: string): void {
    this.#leases.push(lease);
    if (this.#leases.length > 1) return; // the request that waits takes it along
    this.#then(() => {
      const leases = this.#leases.splice(0);
      return leases.length > 0 ? this.#group.ack(leases) : undefined;
    });
  }

  nack(lease: string, kind: "error" | "transient" | "fatal", text: string): void {
    this.#then(() => this.#group.nack([lease], kind, text));
  }

  /** Waits until all is sent. */
  rest(): Promise<void> {
    return this.#sending;
  }

  #then(act: () => Promise<unknown> | undefined): void {
    // What cannot be sent is not settled: the lease runs out, and the event comes again.
    this.#sending = this.#sending.then(act).then(() => undefined, () => undefined);
  }
}

/** Silence aborts a connection on which nothing comes any more, or when the caller's signal does. */
class Silence {
  readonly #control = new AbortController();
  readonly #ms: number;
  readonly #outer: AbortSignal | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(ms: number, outer: AbortSignal | undefined) {
    this.#ms = ms;
    this.#outer = outer;
    if (outer?.aborted) this.#control.abort(outer.reason);
    outer?.addEventListener("abort", this.#follow);
    this.heard();
  }

  get signal(): AbortSignal {
    return this.#control.signal;
  }

  heard(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#control.abort(new Error(`nothing came for ${this.#ms} ms`)), this.#ms);
  }

  /** While the reader is busy elsewhere, silence is its own. */
  hold(): void {
    clearTimeout(this.#timer);
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#outer?.removeEventListener("abort", this.#follow);
    this.#control.abort(new Error("the stream was left"));
  }

  readonly #follow = (): void => this.#control.abort(this.#outer?.reason);
}

interface Message {
  id: string;
  data: string;
}

/** Reads server-sent events (WHATWG HTML, 9.2.6). An event that breaks off is none; an id without data is a place. */
async function* messages(response: Response, silence: Silence): AsyncGenerator<Message, void, void> {
  if (response.body === null) return;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let after = ""; // a carriage return that ended the last piece: a line feed that follows belongs to it
  let id = "";
  let data: string[] = [];
  let fresh = false;
  try {
    for (;;) {
      silence.heard();
      const piece = await reader.read();
      silence.hold();
      if (piece.done) return;
      let text = decoder.decode(piece.value, { stream: true });
      if (text === "") continue;
      if (after === "\r" && text.startsWith("\n")) text = text.slice(1);
      after = text.endsWith("\r") ? "\r" : "";
      const lines = (rest + text).split(/\r\n|\n|\r/);
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line === "") {
          if (fresh || data.length > 0) yield { id, data: data.join("\n") };
          data = [];
          fresh = false;
          continue;
        }
        const colon = line.indexOf(":");
        const field = colon < 0 ? line : line.slice(0, colon);
        const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
        if (field === "data") data.push(value);
        if (field === "id" && !value.includes("\0")) {
          id = value;
          fresh = true;
        }
      }
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason);
      return;
    }
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
