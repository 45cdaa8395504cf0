// Parses the AsyncAPI document in the file given, and fails on every error that the parser of the AsyncAPI project reports.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], "utf8"));
const errors = diagnostics.filter((d) => d.severity === 0);
for (const d of errors.slice(0, 20)) console.error(d.path.join("/"), d.message);
if (errors.length > 0 || document === undefined) process.exit(1);
const counts = { version: document.version(), channels: document.channels().length, messages: document.allMessages().length, operations: document.operations().length };
if (counts.channels < 20 || counts.messages < 80 || counts.operations < 10) throw new Error("it says too little: " + JSON.stringify(counts));
console.log("valid", JSON.stringify(counts));
