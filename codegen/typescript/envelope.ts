import { versions, type EventTypes } from "./events.js";

/** A type of event that these types know, such as "medication.prescription.filled". */
export type EventType = keyof EventTypes;

/** The major versions of an event type. */
export type Major<T extends EventType> = keyof EventTypes[T] & number;

/** The payload of an event type, of one major version or of any. */
export type Payload<T extends EventType, M extends Major<T> = Major<T>> = EventTypes[T][M];

/** Types that services may publish: those of the platform itself are its own. */
export type PublishedType = Exclude<EventType, `platform.${string}`>;

/** What the envelope says about an event. */
export interface Metadata<T extends string = string, V extends string = string> {
  /** Names the event; publishing the same id again stores nothing. */
  eventId: string;
  eventType: T;
  /** The service that states the fact. */
  eventSource: string;
  /** All events of one flow share it. */
  correlationId: string;
  /** The id of the event that this one follows from. */
  causationId?: string;
  /** When the fact happened, in epoch milliseconds. */
  timestamp: number;
  /** Semantic version of the schema. */
  version: V;
  /** W3C trace id. */
  traceId?: string;
  /** Events of one key are stored and handled in order. Default: the id of the entity that the schema names. */
  partitionKey?: string;
}

/** An event of whatever type. */
export interface AnyEvent {
  metadata: Metadata;
  payload: unknown;
}

/** An event of one type and major version. */
export interface Envelope<T extends EventType, M extends Major<T>> {
  metadata: Metadata<T, `${M}.${string}`>;
  payload: EventTypes[T][M];
}

/** An event of one type, or of one of several, in any of its versions. isEvent tells them apart. */
export type EventOf<T extends EventType = EventType> = T extends EventType ? { [M in Major<T>]: Envelope<T, M> }[Major<T>] : never;

/**
 * The types that a pattern fits: a type by its name, all below a name with ".**". Of other patterns it is any type. A
 * pattern may also bring events that these types do not know yet; isEvent refuses them.
 */
export type Matching<P extends string> = P extends EventType ? P
  : P extends `${infer Above}.**` ? Extract<EventType, `${Above}.${string}`>
  : EventType;

/** Whether an event is of a type, and if given of a major version, so that its payload can be read. */
export function isEvent<T extends EventType, M extends Major<T>>(e: AnyEvent, type: T, major: M): e is AnyEvent & Envelope<T, M>;
export function isEvent<T extends EventType>(e: AnyEvent, type: T): e is AnyEvent & EventOf<T>;
export function isEvent(e: AnyEvent, type: string, major?: number): boolean {
  if (e.metadata.eventType !== type) return false;
  const known: Record<string, Record<number, string>> = versions;
  const its = Number.parseInt(e.metadata.version, 10);
  return major === undefined ? known[type]?.[its] !== undefined : its === major;
}

/** What a new event is to say beside its type and payload. What is left out is filled in. */
export interface About {
  /** The service that states the fact. */
  source: string;
  /** The event that is being handled: the new one belongs to its flow and names it as the cause. */
  cause?: AnyEvent;
  /** Default: a new id. Give one that follows from the fact (an order number) to publish it once however often you try. */
  id?: string;
  /** Default: that of the cause, else a new one. */
  correlationId?: string;
  causationId?: string;
  /** When the fact happened. Default: now. */
  at?: Date | number;
  /** Default: the newest version of the major that these types know. */
  version?: string;
  traceId?: string;
  partitionKey?: string;
}

/** Makes an event to be published. */
export function newEvent<T extends PublishedType, M extends Major<T>>(type: T, major: M, payload: EventTypes[T][M], about: About): Envelope<T, M> {
  const metadata: Metadata<T, `${M}.${string}`> = {
    eventId: about.id ?? newID(),
    eventType: type,
    eventSource: about.source,
    correlationId: about.correlationId ?? about.cause?.metadata.correlationId ?? newID(),
    timestamp: about.at === undefined ? Date.now() : Number(about.at),
    version: (about.version ?? versions[type][major]) as `${M}.${string}`,
  };
  const causationId = about.causationId ?? about.cause?.metadata.eventId;
  const traceId = about.traceId ?? about.cause?.metadata.traceId;
  if (causationId !== undefined) metadata.causationId = causationId;
  if (traceId !== undefined) metadata.traceId = traceId;
  if (about.partitionKey !== undefined) metadata.partitionKey = about.partitionKey;
  return { metadata, payload };
}

/** A new id, a UUID of version 7: later ones sort after earlier ones. */
export function newID(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const now = Date.now();
  for (let i = 0; i < 6; i++) bytes[i] = Math.floor(now / 2 ** (8 * (5 - i))) % 256;
  bytes[6] = (bytes[6]! & 0x0f) | 0x70;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  const hex = Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** An event as a CloudEvent 1.0. */
export interface CloudEvent {
  specversion: "1.0";
  id: string;
  source: string;
  type: string;
  time: string;
  datacontenttype: "application/json";
  dataschema?: string;
  correlationid: string;
  schemaversion: string;
  causationid?: string;
  partitionkey?: string;
  traceparent?: string;
  data: unknown;
}

/** Writes an event as a CloudEvent. */
export function toCloudEvent(e: AnyEvent): CloudEvent {
  const m = e.metadata;
  const out: CloudEvent = {
    specversion: "1.0",
    id: m.eventId,
    source: /[/:]/.test(m.eventSource) ? m.eventSource : "/" + m.eventSource,
    type: m.eventType,
    time: new Date(m.timestamp).toISOString(),
    datacontenttype: "application/json",
    correlationid: m.correlationId,
    schemaversion: m.version,
    data: e.payload,
  };
  if (m.causationId !== undefined) out.causationid = m.causationId;
  if (m.partitionKey !== undefined) out.partitionkey = m.partitionKey;
  if (m.traceId !== undefined) out.traceparent = `00-${m.traceId}-${newID().replaceAll("-", "").slice(16)}-00`;
  return out;
}
