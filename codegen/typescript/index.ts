export * from "./client.js";
export * from "./envelope.js";
export * from "./events.js";
