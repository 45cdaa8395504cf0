// Package payer decides prior authorization requests by rules that are data.
//
// [LoadRules] reads and compiles a rule file once; [DefaultRules] is the one that comes with the package. [Rules.Decide]
// is a pure function: the same facts, authorizations on file and moment give the same [Decision], which holds every
// expression that was evaluated with its result. Rules read no clock, no store and no network.
//
//	rules, err := payer.LoadRules(data)
//	…
//	d, err := rules.Decide(facts, onFile, requestedAt)
//	switch d.Outcome { // approved, modified, partially-approved, denied, pended, not-required, contact-payer
//
// # Stages
//
// A request is decided in this order, and ends at the first stage that has an answer:
//
//	member          the payer does not know the patient        contact-payer       CT
//	onFile          an authorization on file covers it         approved            A1
//	noRule          no rule is about the drug                  not-required        NA
//	missingInfo     the rule reads an age, sex or state that
//	                is unknown                                 pended              A4
//	paRequiredWhen  false                                      not-required        NA
//	exempt          one is true                                approved            A1
//	missingInfo     some are true; all are asked at once       pended              A4
//	criteria        one is false; the rest are not looked at   denied              A3
//	modify          some are true                              modified            A6
//	approve         more was asked than the rule's quantity    partially-approved  A2
//	                otherwise                                  approved            A1
//
// A denial carries a reason, the way and the last moment to appeal, and whom to call. An approval carries what is granted
// and from when to when; the number is the caller's to give, and [Decision.Authorization] makes of both what answers the
// next refill. A request denied before and sent again is answered with the first denial: see [Decision.Repeats].
//
// When a rule fails on the facts there is no decision but an error, and a person has to decide. Neither errors nor reasons
// quote the facts.
//
// # Rule file
//
// A rule file is one JSON object. Unknown members, members written twice and text after it are refused.
//
//	{
//	  "format": "carebus.payer-rules/1",
//	  "id": "acme-formulary", "version": "1.4.0",
//	  "sets": {
//	    "ASTHMA": ["195967001", "233678006"],
//	    "RX_INHALED_STEROID": ["895994"]
//	  },
//	  "rules": [{
//	    "id": "RESP-1", "version": "1.0.0", "benefit": "pharmacy",
//	    "title": "Combination inhaler",
//	    "drugs": ["896209"],
//	    "paRequiredWhen": "true",
//	    "exempt": [{"id": "small-child", "when": "pt.age < 4"}],
//	    "missingInfo": [
//	      {"id": "days", "field": "daysSupply", "when": "!has(rx.daysSupply)", "ask": "For how many days?", "dueHours": 48}
//	    ],
//	    "criteria": [
//	      {"id": "asthma", "when": "dx.exists(d, d.active && d.code in sets.ASTHMA)",
//	       "reasonCode": "DX-NOT-SUPPORTED", "reason": "The record shows no asthma."},
//	      {"id": "steroid-first", "when": "hist.exists(h, h.rxcui in sets.RX_INHALED_STEROID && h.daysAgo <= 365)",
//	       "reasonCode": "STEP-THERAPY", "reason": "No inhaled corticosteroid in the past 12 months."}
//	    ],
//	    "modify": [
//	      {"id": "one-fill", "when": "rx.daysSupply > 90", "set": {"daysSupply": 90},
//	       "reasonCode": "QL-EXCEEDED", "reason": "A fill is for 90 days at most."}
//	    ],
//	    "approve": {"months": 12, "quantity": {"amount": 1, "perDays": 30, "unit": "inhaler"}},
//	    "sources": ["where the criteria are from"]
//	  }],
//	  "clocks": [
//	    {"lineOfBusiness": "medicaid", "benefit": "pharmacy", "urgency": "standard",
//	     "hours": 24, "remindHoursBefore": 8, "escalateHoursBefore": 3, "source": "Social Security Act 1927(d)(5)"},
//	    …
//	  ],
//	  "appeals": [
//	    {"lineOfBusiness": "*", "days": 60, "channel": "fax", "address": "+1-800-555-0100", "expeditedAvailable": true,
//	     "instructions": "…", "peerToPeer": {"name": "Review desk", "phoneNumber": "+1-800-555-0101", "days": 14}, "source": "…"}
//	  ],
//	  "dispensing": [
//	    {"payer": "*", "pickupDays": 14, "businessDays": false, "emergencySupplyDays": 3, "source": "…"}
//	  ]
//	}
//
// A drug (RxNorm) is in one rule at most. A quantity with perDays is for that many days and grows with the days that are
// asked for, whole units being rounded up; without perDays it is for each fill. A modification sets quantity, daysSupply,
// refills or months. An item of missing information is due after dueHours, but never after the decision itself; without
// dueHours, with the decision.
//
// Clocks, appeals and dispensing have a row for "*", which stands for everything without a row of its own; for clocks, one
// for each urgency of both benefits that rules can have. Every figure names its source. Hours are calendar time.
//
// # Expressions
//
// Conditions are in the Common Expression Language (CEL), with the string functions lowerAscii, contains and so on. They
// see:
//
//	rx       rxcui, name, priority; optional: quantity, daysSupply, refills, prescriberSpecialty, dispenseAsWritten
//	pt       id; may be unknown: age, sex, state
//	dx       list of code (SNOMED CT), display, active, daysAgo
//	hist     list of rxcui, name, daysAgo
//	allergy  list of code
//	obs      LOINC code to value, daysAgo
//	plan     payer, lob, memberId
//	sets     the file's code sets, for the operator in
//
// All of it is typed: a misspelt member or set, or a code compared with a number, is refused when the file is loaded. So
// is reading an optional member of rx that is not tested with has() in the same expression, nor, for criteria and modify,
// asked for by a missingInfo of exactly !has(rx.member); absent, it would read as zero. A rule that reads pt.age, pt.sex
// or pt.state and nowhere tests it with has() asks for it when it is unknown. Last, each expression is tried on a patient
// of whom nothing is recorded, so that obs['4548-4'].value without a test before it is found at once.
//
// An expression may cost ten million units of CEL's measure for one request, some tenths of a second; then it is stopped
// with [ErrCost]. The rules of the package stay within that for a history of ten thousand drugs.
package payer
