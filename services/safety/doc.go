// Package safety watches what patients take: medications that harm together, and supplies that run out.
//
//	err := safety.Join(ctx, p, safety.Options{})
//
// # Interactions
//
// The service keeps each patient's medications by their RxNorm code, with the time over which each is taken: from the day
// of the prescription until its supply, refills included, is used up, or it is cancelled. A fill makes that time longer.
// Two medications that are taken at the same time and interact give medication.interaction.detected: once for each
// prescription and drug that it interacts with, under the later of the two prescriptions, whichever of them arrives first.
// A finding that was made stays, also when one of the two is cancelled afterwards.
//
// What interacts is data, [LoadInteractions]; a small file comes with the package:
//
//	{
//	  "format": "carebus.interactions/1", "id": "acme", "version": "2026.1",
//	  "drugs": {
//	    "warfarin": {"rxcui": "11289", "products": ["855332"]},
//	    "naproxen": {"rxcui": "7258", "products": ["849574", "198014"]},
//	    "ibuprofen": {"rxcui": "5640", "products": ["310965"]}
//	  },
//	  "classes": {"nsaid": ["ibuprofen", "naproxen"]},
//	  "rules": [
//	    {"id": "DDI-1", "between": ["warfarin", "nsaid"], "severity": "high",
//	     "description": "Bleeding.", "recommendation": "Choose another painkiller.", "source": "label of warfarin, section 7"}
//	  ]
//	}
//
// A drug is an ingredient; products are what is prescribed, and may be listed under several drugs. A rule is about two
// drugs or classes of drugs; a drug never interacts with itself. Unknown members, names that do not exist and empty texts
// are refused.
//
// # Adherence
//
// For each drug of a patient the proportion of days covered is the share of days on which a supply was at hand, from the
// first fill, or from the beginning of the window, to the day of the report: see [DaysCovered]. It is reported, as
// medication.adherence.reported, at each refill, and when a refill was due and is not there some days later; that is a
// durable timer, which the refill takes back. A fill counts from the day it was picked up, as far as that is known, and
// not at all when it was returned.
//
// Both follow from the dates in the events and not from when they arrive. A refill that was missed long ago, as records of
// the past tell, is not reported: nobody could act on it.
package safety
