// What the types promise: this compiles.
import { Client, isEvent, newEvent, type Envelope, type EventOf, type EventType, type Live, type Matching, type Payload } from "./events/index.js";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function holds<T extends true>(): T | undefined { return undefined; }

// A type by its name, a domain by its pattern, anything else is any event.
holds<Same<Matching<"patient.enrolled">, "patient.enrolled">>();
holds<Same<Matching<"payment.claim.**">, "payment.claim.approved" | "payment.claim.rejected" | "payment.claim.submitted" | "payment.claim.voided">>();
holds<Same<Matching<"*.*.created">, EventType>>();

// Both majors of a type have payloads of their own.
holds<Same<Payload<"medication.prescription.filled", 1> extends Payload<"medication.prescription.filled", 2> ? true : false, false>>();
holds<Same<Envelope<"medication.prescription.filled", 2>["metadata"]["version"], `2.${string}`>>();

const enrolled = newEvent("patient.enrolled", 1, { patientId: "P1", enrollmentId: "E1", program: { name: "Adherence" } }, { source: "enrolment" });
holds<Same<typeof enrolled, Envelope<"patient.enrolled", 1>>>();

// An extensible set takes words that these types do not know.
export const lineOfBusiness: Required<NonNullable<Payload<"medication.prescription.created">["payer"]>>["lineOfBusiness"] = "a new one";

export async function follow(client: Client): Promise<void> {
  for await (const live of client.subscribe(["medication.prescription.**", "patient.enrolled"])) {
    holds<Same<typeof live, Live<EventOf<Matching<"medication.prescription.**" | "patient.enrolled">>>>>();
    const e = live.event;
    if (isEvent(e, "medication.prescription.filled", 2)) {
      const payload: Payload<"medication.prescription.filled", 2> = e.payload;
      const id: string = payload.prescriptionId;
      void id;
    } else if (isEvent(e, "patient.enrolled")) {
      const name: string = e.payload.program.name;
      const version: `1.${string}` = e.metadata.version;
      void [name, version];
    }
  }
  await client.group("billing", "payment.claim.**").consume((d) => {
    if (isEvent(d.event, "payment.claim.submitted", 1)) {
      const claim: string = d.event.payload.claimId;
      void claim;
    }
  });
}
