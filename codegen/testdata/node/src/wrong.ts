// What the types refuse: each line that ends with "refused" must be an error, and no other.
import { Client, isEvent, newEvent, type Payload } from "./events/index.js";

const about = { source: "enrolment" };
newEvent("patient.enrolled", 1, { patientId: "P1", enrollmentId: "E1", program: {} }, about); // refused
newEvent("patient.enrolled", 1, { patientId: 1, enrollmentId: "E1", program: { name: "A" } }, about); // refused
newEvent("patient.enrolled", 1, { patientId: "P1", enrollmentId: "E1", program: { name: "A" }, patientid: "P1" }, about); // refused
newEvent("patient.enroled", 1, { patientId: "P1" }, about); // refused
newEvent("patient.enrolled", 2, { patientId: "P1" }, about); // refused
newEvent("patient.enrolled", 1, { patientId: "P1", enrollmentId: undefined, program: { name: "A" } }, about); // refused
newEvent("platform.key.parked", 1, {} as never, about); // refused
export const priority: Payload<"medication.prescription.created">["priority"] = "whenever"; // refused

export async function follow(client: Client): Promise<void> {
  await client.publish({ metadata: {}, payload: {} }); // refused
  for await (const { event } of client.subscribe("medication.prescription.filled")) {
    console.log(event.payload.medication.nothing); // refused
    if (isEvent(event, "medication.prescription.filled", 1)) {
      const second: Payload<"medication.prescription.filled", 2> = event.payload; // refused
      console.log(second);
    }
  }
}
