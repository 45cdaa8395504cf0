// Package priorauth is the prior authorization service: requests as aggregates with a state machine that refuses impossible
// moves.
//
//	now, err := priorauth.Do(ctx, p, "PA1", priorauth.Submit{…})
//	now, err = priorauth.Do(ctx, p, "PA1", priorauth.Approve{…})
//
// The moves:
//
//	            create          submit            approve
//	(nothing) ─────────▶ DRAFT ─────────▶ SUBMITTED ─────────▶ APPROVED ──expire──▶ EXPIRED
//	    └──────────submit──────────────▶     │  ▲  └──deny──▶ DENIED ──appeal──▶ APPEALED ──approve, deny──▶
//	                        request information │  │ update (the answer)
//	                                            ▼  │
//	                                           PENDED
//
// Cancel ends a request that is not decided. Every move is an event, priorauth.request.* and priorauth.status.*, in the
// stream "priorauth.request/ID".
package priorauth
